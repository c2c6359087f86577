//! What the HTTP interfaces of all services share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::{
    FromRequest, FromRequestParts, OptionalFromRequestParts, Request,
    rejection::{JsonRejection, PathRejection},
};
use gusset::call::Problem;
use http::{StatusCode, request::Parts};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::ledger::NotKept;

/// The header in which the gateway names the authenticated user.
pub const SUBJECT: &str = "x-gusset-subject";

/// The header under which a call that is repeated takes effect once.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A new id: unique, and sorted by time.
#[must_use]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// A problem with this status and detail.
pub fn problem(status: StatusCode, detail: impl Into<String>) -> Problem {
    Problem::new(status).detail(detail)
}

/// 404 for a thing of this kind.
pub fn not_found(kind: &str, id: impl std::fmt::Display) -> Problem {
    problem(StatusCode::NOT_FOUND, format!("there is no {kind} {id}"))
}

/// Why a service does not do what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It will not, with this status; of something that is short, how much there is.
    No(StatusCode, String, Option<u32>),
    /// Nobody knows.
    Unknown(NotKept),
}

impl Refused {
    pub(crate) fn no(status: StatusCode, why: impl Into<String>) -> Self {
        Self::No(status, why.into(), None)
    }
}

impl From<NotKept> for Refused {
    fn from(error: NotKept) -> Self {
        Self::Unknown(error)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::No(status, why, None) => problem(status, why),
            Refused::No(status, why, Some(left)) => problem(status, why).with("available", left),
            Refused::Unknown(error) => error.into(),
        }
    }
}

/// A JSON body; what is wrong with it is answered as a problem.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        axum::Json::from_request(request, state)
            .await
            .map(|axum::Json(value)| Self(value))
            .map_err(|rejection: JsonRejection| problem(rejection.status(), rejection.body_text()))
    }
}

/// A part of the path; one that is no `T` names nothing, so it is answered 404.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        <axum::extract::Path<T> as FromRequestParts<S>>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|rejection: PathRejection| {
                problem(StatusCode::NOT_FOUND, rejection.body_text())
            })
    }
}

/// The user on whose behalf a request comes, as the gateway verified it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Subject {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        header(parts, SUBJECT)
            .and_then(|subject| subject.parse().ok())
            .map(Self)
            .ok_or_else(|| problem(StatusCode::UNAUTHORIZED, "no user is logged in"))
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Subject {
    type Rejection = Problem;

    /// A subject that is none of ours is an error all the same.
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Problem> {
        if !parts.headers.contains_key(SUBJECT) {
            return Ok(None);
        }
        <Self as FromRequestParts<S>>::from_request_parts(parts, state).await.map(Some)
    }
}

/// The key of a call that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(header(parts, IDEMPOTENCY_KEY).map(str::to_owned)))
    }
}

impl IdempotencyKey {
    /// The key, where a service insists on one.
    ///
    /// # Errors
    ///
    /// 400 if there is none.
    pub fn required(self) -> Result<String, Problem> {
        self.0.ok_or_else(|| {
            problem(StatusCode::BAD_REQUEST, "this call needs an Idempotency-Key header")
        })
    }
}

fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts.headers.get(name)?.to_str().ok()
}

/// Locks a store. No store is left half changed by a panic: each changes under one lock at its end.
pub fn lock<T>(store: &Mutex<T>) -> MutexGuard<'_, T> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}
