//! Actions and undos with their types taken off.

use std::{future::Future, sync::Arc};

use futures_util::{FutureExt, future::ready};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Effect, Json, StepContext, StepError,
    needs::Decode,
    step::{Action, Attempting, Call},
};

pub(crate) fn acting<A, F, In, Out>(action: A) -> Arc<Action>
where
    A: Fn(StepContext, In) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Out, StepError>> + Send + 'static,
    In: DeserializeOwned,
    Out: Serialize + 'static,
{
    Arc::new(move |call| match call.input() {
        Ok(input) => returning(action(call.cx, input)),
        Err(error) => refusing(error),
    })
}

pub(crate) fn acting_on<A, F, In, V, Out>(decode: Decode<V>, action: A) -> Arc<Action>
where
    A: Fn(StepContext, In, V) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Out, StepError>> + Send + 'static,
    In: DeserializeOwned,
    V: 'static,
    Out: Serialize + 'static,
{
    Arc::new(move |call| match (call.input(), needed(decode, &call)) {
        (Ok(input), Ok(needed)) => returning(action(call.cx, input, needed)),
        (Err(error), _) | (_, Err(error)) => refusing(error),
    })
}

pub(crate) fn undoing<U, F, In, Out>(undo: U) -> Arc<Action>
where
    U: Fn(StepContext, In, Effect<Out>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), StepError>> + Send + 'static,
    In: DeserializeOwned,
    Out: DeserializeOwned + 'static,
{
    Arc::new(move |call| match (call.input(), call.effect()) {
        (Ok(input), Ok(effect)) => ending(undo(call.cx, input, effect)),
        (Err(error), _) | (_, Err(error)) => refusing(error),
    })
}

pub(crate) fn undoing_on<U, F, In, V, Out>(decode: Decode<V>, undo: U) -> Arc<Action>
where
    U: Fn(StepContext, In, V, Effect<Out>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), StepError>> + Send + 'static,
    In: DeserializeOwned,
    V: 'static,
    Out: DeserializeOwned + 'static,
{
    Arc::new(move |call| match (call.input(), needed(decode, &call), call.effect()) {
        (Ok(input), Ok(needed), Ok(effect)) => ending(undo(call.cx, input, needed, effect)),
        (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => refusing(error),
    })
}

/// The result of a child: what its definition makes of the outputs of its steps.
pub(crate) fn collecting<Out: Serialize + 'static>(decode: Decode<Out>) -> Arc<Action> {
    Arc::new(move |call| match needed(decode, &call) {
        Ok(output) => computed(&output),
        Err(error) => refusing(error),
    })
}

/// The input of a child.
pub(crate) fn computing<A, In, Out>(compute: A) -> Arc<Action>
where
    A: Fn(In) -> Out + Send + Sync + 'static,
    In: DeserializeOwned,
    Out: Serialize,
{
    Arc::new(move |call| match call.input() {
        Ok(input) => computed(&compute(input)),
        Err(error) => refusing(error),
    })
}

/// The input of a child that needs more than the parent's.
pub(crate) fn computing_on<A, In, V, Out>(decode: Decode<V>, compute: A) -> Arc<Action>
where
    A: Fn(In, V) -> Out + Send + Sync + 'static,
    In: DeserializeOwned,
    V: 'static,
    Out: Serialize,
{
    Arc::new(move |call| match (call.input(), needed(decode, &call)) {
        (Ok(input), Ok(needed)) => computed(&compute(input, needed)),
        (Err(error), _) | (_, Err(error)) => refusing(error),
    })
}

/// Nothing happened outside, so what cannot be kept is a clean failure.
fn computed<Out: Serialize>(output: &Out) -> Attempting {
    ready(Json::encode(output).map(Some).map_err(StepError::rejected)).boxed()
}

fn needed<V>(decode: Decode<V>, call: &Call) -> Result<V, StepError> {
    decode(&call.needed).map_err(|error| StepError::rejected(format!("needed output: {error}")))
}

fn returning<Out: Serialize>(
    action: impl Future<Output = Result<Out, StepError>> + Send + 'static,
) -> Attempting {
    // The effect is there: an output that cannot be kept must not pass for a clean failure.
    Box::pin(action.map(|output| Json::encode(&output?).map(Some).map_err(StepError::unknown)))
}

fn ending(undo: impl Future<Output = Result<(), StepError>> + Send + 'static) -> Attempting {
    Box::pin(undo.map(|done| done.map(|()| None)))
}

fn refusing(error: StepError) -> Attempting {
    ready(Err(error)).boxed()
}
