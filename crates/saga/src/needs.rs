use std::{fmt, marker::PhantomData};

use serde::de::DeserializeOwned;

use crate::Json;

/// Handle of a step whose action returns an `Out`.
pub struct StepRef<Out> {
    mark: u64,
    place: u32,
    output: PhantomData<fn() -> Out>,
}

impl<Out> StepRef<Out> {
    pub(crate) const fn new(mark: u64, place: u32) -> Self {
        Self { mark, place, output: PhantomData }
    }

    pub(crate) const fn parts(&self) -> (u64, u32) {
        (self.mark, self.place)
    }
}

impl<Out> Clone for StepRef<Out> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Out> Copy for StepRef<Out> {}

impl<Out> fmt::Debug for StepRef<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StepRef").field(&self.place).finish()
    }
}

/// Reads the outputs of the needed steps.
pub(crate) type Decode<Values> = fn(&[Json]) -> Result<Values, serde_json::Error>;

/// Outputs that a step, or the result of a saga, is made from: a [`StepRef`], a tuple of at most eight, a slice of any length, or `()`.
pub trait Needs: sealed::Needs {}

impl<N: sealed::Needs> Needs for N {}

pub(crate) mod sealed {
    use super::Decode;

    pub trait Needs {
        /// The outputs, as types.
        type Values: 'static;

        /// Mark of the definition and place in it, of each.
        fn each(&self, visit: &mut dyn FnMut(u64, u32));

        fn decoder(&self) -> Decode<Self::Values>;
    }
}

impl<T: DeserializeOwned + 'static> sealed::Needs for &StepRef<T> {
    type Values = T;

    fn each(&self, visit: &mut dyn FnMut(u64, u32)) {
        visit(self.mark, self.place);
    }

    fn decoder(&self) -> Decode<T> {
        |outputs| at(outputs, 0)
    }
}

impl<T: DeserializeOwned + 'static> sealed::Needs for &[StepRef<T>] {
    type Values = Vec<T>;

    fn each(&self, visit: &mut dyn FnMut(u64, u32)) {
        for step in *self {
            visit(step.mark, step.place);
        }
    }

    fn decoder(&self) -> Decode<Vec<T>> {
        |outputs| outputs.iter().map(Json::decode).collect()
    }
}

macro_rules! tuples {
    ($($($name:ident $place:literal)*;)*) => {$(
        #[allow(non_snake_case, unused_variables, reason = "one body for all lengths")]
        impl<$($name: DeserializeOwned + 'static),*> sealed::Needs for ($(&StepRef<$name>,)*) {
            type Values = ($($name,)*);

            fn each(&self, visit: &mut dyn FnMut(u64, u32)) {
                let ($($name,)*) = self;
                $(visit($name.mark, $name.place);)*
            }

            fn decoder(&self) -> Decode<Self::Values> {
                |outputs| Ok(($(at(outputs, $place)?,)*))
            }
        }
    )*};
}

tuples! {
    ;
    A 0;
    A 0 B 1;
    A 0 B 1 C 2;
    A 0 B 1 C 2 D 3;
    A 0 B 1 C 2 D 3 E 4;
    A 0 B 1 C 2 D 3 E 4 F 5;
    A 0 B 1 C 2 D 3 E 4 F 5 G 6;
    A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7;
}

fn at<T: DeserializeOwned>(outputs: &[Json], place: usize) -> Result<T, serde_json::Error> {
    match outputs.get(place) {
        Some(output) => output.decode(),
        None => Err(serde::de::Error::custom("it is missing")),
    }
}
