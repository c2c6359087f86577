//! One request: read within bounds, let in or not, and handed to who answers it.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use tokio::time::timeout;
use tower_service::Service;

use super::{
    answer::{Answer, Failure},
    query::{Query, decode},
    routes::{self, Route},
    server::ConsulServer,
};

/// A request without its body's type.
pub(super) struct Call {
    pub(super) method: Method,
    /// What stands behind the route's prefix, decoded.
    pub(super) name: String,
    pub(super) query: Query,
    pub(super) body: Bytes,
}

const LARGEST_BODY: usize = 512 << 10;
const SLOWEST_BODY: Duration = Duration::from_secs(30);

impl ConsulServer {
    async fn serve<B>(self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let mut pretty = false;
        match self.answer(request, &mut pretty).await {
            Ok(answer) => answer.into_response(pretty),
            Err(failure) => {
                let full = [StatusCode::INSUFFICIENT_STORAGE, StatusCode::TOO_MANY_REQUESTS];
                if full.contains(&failure.status) {
                    self.0.refused.fetch_add(1, Relaxed);
                }
                failure.into_response()
            }
        }
    }

    async fn answer<B>(&self, request: Request<B>, pretty: &mut bool) -> Result<Answer, Failure>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let (route, name) = routes::find(head.uri.path(), &head.method)?;
        let query = Query::parse(head.uri.query())?;
        let open = matches!(route, Route::Leader | Route::Peers);
        if let Some(token) = self.0.policy.token.as_ref().filter(|_| !open) {
            routes::authorize(token, &head.headers, &query)?;
        }
        let name = decode(name, false).ok_or_else(|| Failure::bad("the path is not UTF-8"))?;
        // An empty one is the server's own, as in Consul.
        let dc = query.get("dc").filter(|dc| !dc.is_empty());
        let elsewhere = dc.is_some_and(|dc| dc != self.0.policy.datacenter);
        if elsewhere {
            let what = "No path to datacenter";
            return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, what));
        }
        *pretty = query.has("pretty");
        let body = read_body(body).await?;
        self.dispatch(route, &Call { method: head.method, name, query, body }).await
    }
}

impl<B> Service<Request<B>> for ConsulServer
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { Ok(server.serve(request).await) })
    }
}

async fn read_body<B>(body: B) -> Result<Bytes, Failure>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let body = pin!(Limited::new(body, LARGEST_BODY));
    match timeout(SLOWEST_BODY, body.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let what = format!("Request body too large, max size: {LARGEST_BODY} bytes");
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, what))
        }
        Ok(Err(error)) => Err(Failure::bad(format!("the body could not be read: {error}"))),
        Err(_) => Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly")),
    }
}
