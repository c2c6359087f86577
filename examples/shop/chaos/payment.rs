//! What can go wrong with payments on their way.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::StatusCode;

use super::{Chaos, Fault};
use crate::api::problem;

/// How much longer a payment takes. With the retries of a caller that gives up after a second, it does not always arrive in time.
const SLOWER: Duration = Duration::from_millis(700);

/// As a middleware of axum.
pub(crate) async fn hurt_payments(
    State(chaos): State<Chaos>,
    request: Request,
    next: Next,
) -> Response {
    if chaos.on().is_empty() {
        return next.run(request).await;
    }
    if chaos.is_on(Fault::PaymentHangs) {
        chaos.is_over(Fault::PaymentHangs).await;
        // Who waited has long gone; what comes too late is not done.
        return refused("this hung");
    }
    if chaos.is_on(Fault::PaymentSlow) {
        tokio::time::sleep(SLOWER).await;
    }
    if chaos.is_on(Fault::PaymentFails) {
        return refused("no payments at present");
    }
    let answer = next.run(request).await;
    if chaos.is_on(Fault::PaymentMute) {
        return refused("the answer was lost");
    }
    answer
}

fn refused(why: &str) -> Response {
    axum::response::IntoResponse::into_response(problem(StatusCode::SERVICE_UNAVAILABLE, why))
}
