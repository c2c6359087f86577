//! The payment service over gRPC, as services call it: `payment.proto`. What people and operators ask stays HTTP with JSON, on the same socket.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use axum::Router;
use gusset::{
    call::{BoxError, to_status},
    saga::StepError,
    sidecar::ReplayBody,
    standard::Standard,
};
use http::uri::PathAndQuery;
use hyper_util::client::legacy::Client;
use prost::Message;
use tonic::{
    Code, Request, Response, Status, body::Body, client::Grpc, metadata::AsciiMetadataValue,
};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceExt, service_fn};
use uuid::Uuid;

use crate::{
    api::IDEMPOTENCY_KEY,
    client::Connector,
    payment::{Charge, NoCharge, Payments, Refund},
};

const CHARGE: &str = "/shop.Payments/Charge";
const REFUND: &str = "/shop.Payments/Refund";

/// Connections that speak HTTP/2.
pub(crate) type Http2 = Client<Connector, ReplayBody<Body>>;

#[derive(Clone, PartialEq, Message)]
struct ChargeRequest {
    #[prost(string, tag = "1")]
    order_id: String,
    #[prost(uint64, tag = "2")]
    amount_cents: u64,
    #[prost(string, tag = "3")]
    card: String,
}

#[derive(Clone, PartialEq, Message)]
struct RefundRequest {
    #[prost(string, tag = "1")]
    payment: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Done {}

/// Answers calls.
#[derive(Clone)]
struct Server(Payments);

/// Its paths.
pub(crate) fn router(payments: &Payments) -> Router {
    let server = || Server(payments.clone());
    Router::new().route_service(CHARGE, server()).route_service(REFUND, server())
}

impl Service<http::Request<axum::body::Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<axum::body::Body>) -> Self::Future {
        let (payments, is_charge) = (self.0.clone(), request.uri().path() == CHARGE);
        Box::pin(async move {
            let answer = if is_charge {
                let codec = ProstCodec::<Done, ChargeRequest>::default();
                let charge = service_fn(move |asked| charge(payments.clone(), asked));
                tonic::server::Grpc::new(codec).unary(charge, request).await
            } else {
                let codec = ProstCodec::<Done, RefundRequest>::default();
                let refund = service_fn(move |asked| refund(payments.clone(), asked));
                tonic::server::Grpc::new(codec).unary(refund, request).await
            };
            Ok(answer)
        })
    }
}

async fn charge(
    payments: Payments,
    asked: Request<ChargeRequest>,
) -> Result<Response<Done>, Status> {
    let key = asked.metadata().get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok());
    let needed = || Status::invalid_argument("this call needs an idempotency-key");
    let key = key.ok_or_else(needed)?.to_owned();
    let ChargeRequest { order_id, amount_cents, card } = asked.into_inner();
    let order_id: Uuid =
        order_id.parse().map_err(|_| Status::invalid_argument("order_id: is no UUID"))?;
    let charged = payments.charge(key, Charge { order_id, amount_cents, card }).await;
    charged.map(|_| Response::new(Done {})).map_err(said)
}

async fn refund(
    payments: Payments,
    asked: Request<RefundRequest>,
) -> Result<Response<Done>, Status> {
    let refunded = payments.refund(asked.into_inner().payment).await;
    refunded.map(|_| Response::new(Done {})).map_err(|error| said(error.into()))
}

/// As gRPC says it.
fn said(why: NoCharge) -> Status {
    let code = match why {
        NoCharge::Amount => Code::InvalidArgument,
        NoCharge::GivenBack | NoCharge::Declined => Code::FailedPrecondition,
        NoCharge::BankAway | NoCharge::NotKept => Code::Unavailable,
    };
    Status::new(code, why.to_string())
}

/// Calls the payment service, through all layers.
#[derive(Clone, Debug)]
pub(crate) struct PaymentsClient {
    http: Standard<Http2>,
}

impl PaymentsClient {
    pub(crate) const fn new(http: Standard<Http2>) -> Self {
        Self { http }
    }

    pub(crate) async fn charge(&self, key: &str, charge: &Charge) -> Result<(), CallFailed> {
        let Charge { order_id, amount_cents, card } = charge;
        let (order_id, card) = (order_id.to_string(), card.clone());
        self.call(CHARGE, key, ChargeRequest { order_id, amount_cents: *amount_cents, card }).await
    }

    pub(crate) async fn refund(&self, key: &str, refund: &Refund) -> Result<(), CallFailed> {
        self.call(REFUND, key, RefundRequest { payment: refund.payment.clone() }).await
    }

    /// Once: the call is repeated under the same key until there is an answer or no more hope.
    async fn call<Q>(&self, path: &'static str, key: &str, message: Q) -> Result<(), CallFailed>
    where
        Q: Message + Send + Sync + 'static,
    {
        let key: AsciiMetadataValue =
            key.parse().map_err(|_| Status::invalid_argument("the key is no text"))?;
        let mut request = Request::new(message);
        request.metadata_mut().insert(IDEMPOTENCY_KEY, key);
        let mut client = Grpc::new(self.http.clone().map_err(status_of));
        client.ready().await?;
        let codec = ProstCodec::<Q, Done>::default();
        client.unary(request, PathAndQuery::from_static(path), codec).await?;
        Ok(())
    }
}

/// Of one type, as inference wants it.
fn status_of(error: BoxError) -> Status {
    to_status(error)
}

/// Why a call gave no answer that could be used. Displays as what the service, or a layer before it, says.
#[derive(Debug)]
pub(crate) struct CallFailed(Status);

impl From<Status> for CallFailed {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl CallFailed {
    /// A decision is one for good. All else may have had its effect before it failed.
    pub(crate) fn into_step(self) -> StepError {
        if self.is_decision() { StepError::rejected(self) } else { StepError::from_call(self) }
    }

    pub(crate) fn is_decision(&self) -> bool {
        matches!(self.0.code(), Code::FailedPrecondition | Code::InvalidArgument)
    }
}

impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.message())
    }
}

impl std::error::Error for CallFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}
