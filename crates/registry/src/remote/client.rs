//! Calls, each bounded in time, and whether the server answers them.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    address::Address,
    failure::{Failure, Kind, is_busy},
    policy::RemotePolicy,
    pool::{Connection, Place, Pool},
    state::{Meters, RemoteState},
};
use crate::Error;

/// What the handles and tasks of one registry share.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) policy: RemotePolicy,
    pub(super) meters: Meters,
    address: Address,
    token: Option<HeaderValue>,
    calls: Pool,
    pub(super) watches: Pool,
    /// How many watches there are.
    pub(super) followers: watch::Sender<usize>,
    state: watch::Sender<RemoteState>,
}

/// A question.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: String,
    pub(super) body: Bytes,
    /// Whether it may be sent again where it may have been done already.
    pub(super) again: bool,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `X-Consul-Index`.
    pub(super) index: Option<u64>,
    pub(super) body: Bytes,
}

impl Ask {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: Bytes::new(), again: true }
    }

    pub(super) fn put(path: String, body: impl Into<Bytes>) -> Self {
        Self { method: Method::PUT, path, body: body.into(), again: true }
    }
}

impl Client {
    pub(super) fn new(url: &str, policy: RemotePolicy) -> Result<Self, Error> {
        let policy = policy.checked();
        let token = match policy.token.as_deref().map(HeaderValue::from_str) {
            Some(Ok(mut token)) => {
                token.set_sensitive(true);
                Some(token)
            }
            Some(Err(_)) => {
                // Not what it says: it is a secret.
                let (value, reason) = (String::from("…"), "has bytes that no header can have");
                return Err(Error::Invalid { field: "token", value, reason });
            }
            None => None,
        };
        Ok(Self {
            address: Address::parse(url, policy.has_tls())?,
            token,
            calls: Pool::new(policy.connections),
            watches: Pool::new(policy.watches),
            policy,
            meters: Meters::default(),
            followers: watch::Sender::new(0),
            state: watch::Sender::new(RemoteState::Unknown),
        })
    }

    pub(super) fn state(&self) -> watch::Receiver<RemoteState> {
        self.state.subscribe()
    }

    /// A call. It waits for a connection and for the answer, for each as long as [`RemotePolicy::call_within`].
    pub(super) async fn call(&self, ask: &Ask) -> Result<Answer, Failure> {
        let limit = self.policy.call_within;
        let place = match timeout(limit, self.calls.place()).await {
            Ok(place) => place.map_err(|error| self.failure(ask, "no connection", error))?,
            Err(_) => {
                // Of which the server knows nothing.
                let what = format!("all connections were in use for {limit:?}");
                return Err(Failure::new(&ask.method, self.url(ask), Kind::Busy, what, None));
            }
        };
        self.within(limit, ask, self.ask(&place, ask)).await
    }

    /// Rises with each connection that ended while nobody wanted it to. What is heard after that may be of another server, or of one that was
    /// started again.
    pub(super) fn breaks(&self) -> u64 {
        self.calls.breaks() + self.watches.breaks()
    }

    /// Gives the answer so much time, and notes what it says of the server.
    pub(super) async fn within(
        &self,
        limit: Duration,
        ask: &Ask,
        answer: impl Future<Output = Result<Answer, Failure>>,
    ) -> Result<Answer, Failure> {
        let late = |_| {
            let what = format!("no answer within {limit:?}");
            Err(Failure::new(&ask.method, self.url(ask), Kind::Away, what, None))
        };
        let answer = match timeout(limit, answer).await.unwrap_or_else(late) {
            Ok(answer) if is_busy(answer.status) => Err(self.refused(ask, &answer)),
            other => other,
        };
        if answer.as_ref().is_err_and(|failure| failure.kind == Kind::Away) {
            self.watches.broke();
            self.calls.clear();
            self.watches.clear();
        }
        self.note(&answer);
        answer
    }

    /// Over a connection that was used before, or a new one. The first may have been closed at the same moment, which is no failure.
    pub(super) async fn ask(&self, place: &Place<'_>, ask: &Ask) -> Result<Answer, Failure> {
        if let Some(connection) = place.used().await {
            match self.ask_over(connection, place, ask).await {
                Err(failure) if failure.kind == Kind::Away && ask.again => place.broke(),
                other => return other,
            }
        }
        let opened =
            timeout(self.policy.connect_within, Connection::open(&self.address, &self.policy))
                .await;
        let connection = match opened {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(self.failure(ask, "cannot connect", error.into())),
            Err(_) => {
                let what = format!("no connection within {:?}", self.policy.connect_within);
                return Err(Failure::new(&ask.method, self.url(ask), Kind::Away, what, None));
            }
        };
        self.meters.connected.fetch_add(1, Relaxed);
        self.ask_over(connection, place, ask).await
    }

    async fn ask_over(
        &self,
        mut connection: Connection,
        place: &Place<'_>,
        ask: &Ask,
    ) -> Result<Answer, Failure> {
        let request = self.request(ask).map_err(|error| self.failure(ask, "no request", error))?;
        let (head, body) = connection
            .ask(request)
            .await
            .map_err(|error| self.failure(ask, "no whole answer", error))?;
        if !connection.is_closed() && keeps_alive(&head.headers) {
            place.keep(connection);
        }
        let index = head.headers.get("x-consul-index").and_then(|index| index.to_str().ok());
        let index = index.and_then(|index| index.parse().ok());
        let (status, kind) = (head.status, head.status.as_u16());
        // What is no final answer to a question of ours, such as a redirect, makes no sense.
        if !(200..300).contains(&kind) && !(400..600).contains(&kind) {
            let what = format!("answered {status}, which makes no sense here");
            return Err(Failure::new(&ask.method, self.url(ask), Kind::Away, what, None));
        }
        Ok(Answer { status, index, body })
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, BoxError> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(&ask.path)
            .header(header::HOST, &self.address.authority)
            .header(header::USER_AGENT, "gusset-registry");
        if let Some(token) = &self.token {
            request = request.header("x-consul-token", token);
        }
        if !ask.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        Ok(request.body(Full::new(ask.body.clone()))?)
    }

    /// Whether the server answers, and can do what it is asked to.
    fn note(&self, answer: &Result<Answer, Failure>) {
        match answer {
            Ok(_) => {
                self.meters.answered.fetch_add(1, Relaxed);
                self.state.send_if_modified(|state| {
                    if let RemoteState::Away { since, .. } = state {
                        let (server, away) = (&*self.address.authority, since.elapsed());
                        tracing::info!(server, ?away, "the registry answers again");
                    }
                    let changed = *state != RemoteState::Connected;
                    *state = RemoteState::Connected;
                    changed
                });
            }
            Err(failure) => {
                self.meters.failed.fetch_add(1, Relaxed);
                let cause: Arc<str> = failure.line().into();
                self.state.send_modify(|state| {
                    let since = match state {
                        RemoteState::Away { since, .. } => *since,
                        _ => {
                            tracing::warn!(cause = &*cause, "the registry does not answer");
                            Instant::now()
                        }
                    };
                    *state = RemoteState::Away { since, cause };
                });
            }
        }
    }

    fn url(&self, ask: &Ask) -> String {
        format!("{}{}", self.address, ask.path)
    }

    pub(super) fn failure(&self, ask: &Ask, what: &'static str, cause: BoxError) -> Failure {
        Failure::new(&ask.method, self.url(ask), Kind::Away, what, Some(cause))
    }

    /// The answer, if its status is one of success.
    pub(super) fn success(&self, ask: &Ask, answer: Answer) -> Result<Answer, Failure> {
        if answer.status.is_success() { Ok(answer) } else { Err(self.refused(ask, &answer)) }
    }

    /// What the answer says, as a failure.
    pub(super) fn refused(&self, ask: &Ask, answer: &Answer) -> Failure {
        Failure::status(&ask.method, self.url(ask), answer.status, &answer.body)
    }

    /// An answer that cannot be read.
    pub(super) fn garbled(&self, ask: &Ask, error: impl Into<BoxError>) -> Failure {
        self.failure(ask, "the answer makes no sense", error.into())
    }
}

fn keeps_alive(headers: &HeaderMap) -> bool {
    let closes = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
    !headers.get_all(header::CONNECTION).iter().any(closes)
}
