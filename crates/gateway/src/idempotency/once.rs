use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use gusset_call::BoxError;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::{
    Begun, Gathered, Idempotency, KeyFault, Keyed, RequestKey, StoredAnswer,
    store::IdempotencyStore,
};
use crate::{
    answer::Answer,
    body::{BodyHash, RequestBody},
};

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What a claim lasts longer than its request may.
const MARGIN: Duration = Duration::from_secs(5);

/// A call that goes on in a task when nobody waits for it any more.
pub(crate) struct Run<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> Run<T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(gusset_call::carry(future))))
    }
}

impl<T: Send + 'static> Future for Run<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let polled = future.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Run<T> {
    fn drop(&mut self) {
        if let (Some(future), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { drop(future.await) });
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Run<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").finish_non_exhaustive()
    }
}

/// One request with a key.
pub(crate) struct Once {
    pub(crate) policy: Idempotency,
    pub(crate) keyed: Keyed,
    /// How long the upstream may take.
    pub(crate) limit: Duration,
}

/// Gives a key back unless it was answered.
struct Claim {
    store: Arc<dyn IdempotencyStore>,
    key: RequestKey,
    number: Option<u64>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.store.release(&self.key, number);
        }
    }
}

impl Once {
    /// The answer to a request with this body: by `call`, or as it was given before.
    pub(crate) async fn answer<B, F>(
        self,
        body: RequestBody,
        call: impl FnOnce(RequestBody) -> F,
    ) -> Result<Response<Gathered<B>>, Answer>
    where
        B: Body<Data = Bytes, Error = BoxError> + Unpin,
        F: Future<Output = Result<Response<B>, Answer>>,
    {
        let Self { policy, keyed, limit } = self;
        let lease = limit.saturating_mul(2).saturating_add(MARGIN);
        let away = |error: BoxError| {
            let error = &*error as &dyn std::error::Error;
            tracing::warn!(error, "the store of answers is away");
            Answer::Unavailable { retry_after: None, why: None }
        };
        let number = match policy.store.begin(&keyed.key, lease).await.map_err(away)? {
            Begun::Claimed(number) => number,
            Begun::Running => return Err(Answer::Key(KeyFault::Running)),
            Begun::Full => return Err(Answer::Unavailable { retry_after: None, why: None }),
            Begun::Answered(answer) => return replay(&answer, &keyed, body, limit).await,
        };
        let store = policy.store.clone();
        let mut claim = Claim { store, key: keyed.key, number: Some(number) };
        let hash = BodyHash::default();
        let (head, body) = call(body.hashed(hash.clone())).await?.into_parts();
        if !policy.is_final(head.status) {
            let body = Gathered { data: Bytes::new(), rest: Some(body), trailers: None };
            return Ok(Response::from_parts(head, body));
        }
        let gathered = match timeout(limit, gather(body, policy.max_body)).await {
            Ok(Ok(gathered)) => gathered,
            Ok(Err(_)) => return Err(Answer::BadGateway),
            Err(_) => return Err(Answer::Timeout),
        };
        let whole = gathered.rest.is_none();
        let stored = StoredAnswer {
            target: keyed.target,
            sent: hash.whole(),
            status: head.status,
            headers: if whole { head.headers.clone() } else { http::HeaderMap::new() },
            body: whole.then(|| gathered.data.clone()),
            trailers: gathered.trailers.clone(),
        };
        // From here on it has had its effect, whatever becomes of the store.
        claim.number = None;
        let kept = policy.store.keep(&keyed.key, number, Arc::new(stored), policy.keep).await;
        let _ = kept.map_err(away);
        Ok(Response::from_parts(head, gathered))
    }
}

impl Idempotency {
    /// Whether another request would not be answered in another way.
    fn is_final(&self, status: StatusCode) -> bool {
        match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                false
            }
            // Another protocol is no answer.
            StatusCode::SWITCHING_PROTOCOLS => false,
            _ => self.server_errors || !status.is_server_error(),
        }
    }
}

async fn replay<B>(
    answer: &StoredAnswer,
    keyed: &Keyed,
    body: RequestBody,
    limit: Duration,
) -> Result<Response<Gathered<B>>, Answer> {
    if answer.target != keyed.target {
        return Err(Answer::Key(KeyFault::Different));
    }
    if let Some(first) = answer.sent {
        let limit_of_body = body.limit();
        match timeout(limit, read(body)).await {
            Ok(Ok(sent)) if sent == Some(first) => {}
            Ok(Ok(_)) => return Err(Answer::Key(KeyFault::Different)),
            Ok(Err(error)) => return Err(Answer::to_error(&error, limit_of_body)),
            Err(_) => return Err(Answer::SlowBody),
        }
    }
    let data = answer.body.clone().ok_or(Answer::Key(KeyFault::Unkept))?;
    let gathered = Gathered { data, rest: None, trailers: answer.trailers.clone() };
    let mut response = Response::new(gathered);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers.clone();
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// Reads a request's body for its hash alone.
async fn read(body: RequestBody) -> Result<Option<[u8; 32]>, BoxError> {
    let hash = BodyHash::default();
    let mut body = body.hashed(hash.clone());
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(hash.whole())
}

/// Reads `body` to its end, or until it is longer than `most`.
async fn gather<B>(mut body: B, most: usize) -> Result<Gathered<B>, BoxError>
where
    B: Body<Data = Bytes, Error = BoxError> + Unpin,
{
    let (mut data, mut first, mut trailers) = (BytesMut::new(), Bytes::new(), None);
    let rest = loop {
        let Some(frame) = body.frame().await.transpose()? else { break None };
        match frame.into_data() {
            // Most bodies are one piece.
            Ok(piece) if first.is_empty() => first = piece,
            Ok(piece) => {
                if data.is_empty() {
                    data.extend_from_slice(&first);
                }
                data.extend_from_slice(&piece);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if data.len().max(first.len()) > most {
            break Some(body);
        }
    };
    let data = if data.is_empty() { first } else { data.freeze() };
    Ok(Gathered { data, rest, trailers })
}
