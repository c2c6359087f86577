//! What can go wrong with payments on their way.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header::CONTENT_TYPE};
use tonic::Status;

use super::{Chaos, Fault};
use crate::api::problem;

/// How much longer a payment takes. With the retries of a caller that gives up after a second, it does not always arrive in time.
pub(crate) const SLOWER: Duration = Duration::from_millis(700);

/// As a middleware of axum, before the paths of gRPC and of HTTP alike; each is refused in its own words.
pub(crate) async fn hurt_payments(
    State(chaos): State<Chaos>,
    request: Request,
    next: Next,
) -> Response {
    if chaos.on().is_empty() {
        return next.run(request).await;
    }
    let refused = if is_grpc(&request) { unavailable } else { service_unavailable };
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
    // A call of gRPC that is answered with one message has had its effect when its head is here.
    let answer = next.run(request).await;
    if chaos.is_on(Fault::PaymentMute) {
        return refused("the answer was lost");
    }
    answer
}

fn is_grpc(request: &Request) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn unavailable(why: &str) -> Response {
    Status::unavailable(why).into_http()
}

fn service_unavailable(why: &str) -> Response {
    IntoResponse::into_response(problem(StatusCode::SERVICE_UNAVAILABLE, why))
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware::from_fn_with_state, routing::post};
    use tower::ServiceExt;

    use super::*;

    async fn ask(fault: Fault, kind: &str) -> Response {
        let chaos = Chaos::default();
        chaos.set(fault, true).unwrap();
        let hurt = from_fn_with_state(chaos, hurt_payments);
        let router = Router::new().route("/", post(async || "paid")).layer(hurt);
        let request = Request::post("/").header(CONTENT_TYPE, kind).body(Body::empty()).unwrap();
        router.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_payment_that_is_refused_hears_it_in_the_words_of_its_protocol() {
        for fault in [Fault::PaymentFails, Fault::PaymentMute] {
            let grpc = ask(fault, "application/grpc").await;
            assert_eq!(
                (grpc.status(), &grpc.headers()["grpc-status"]),
                (StatusCode::OK, &"14".parse().unwrap())
            );
            assert_eq!(ask(fault, "application/json").await.status(), 503);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_payment_that_is_slow_is_made_all_the_same() {
        let began = tokio::time::Instant::now();
        assert_eq!(ask(Fault::PaymentSlow, "application/grpc").await.status(), 200);
        assert_eq!(began.elapsed(), SLOWER);
    }
}
