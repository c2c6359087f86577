//! The connection: every question has a limit of time, and one that a reconnection has orphaned is asked again.
//!
//! The client below sends commands in the order of its callers and resubscribes by itself; it knows no answer that will
//! never come. `connections` does: what was asked over an earlier connection is lost.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, RequestError, RequestErrorKind};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    NatsError, NatsOptions, NatsTls,
    dial::{client_options, wants_tls, with_events},
};

/// Oldest server that does what this engine asks: earlier ones have no `next_by_subj` and no threshold of idleness for
/// durable consumers.
const OLDEST: (u64, u64) = (2, 9);

/// How long a question waits before it is asked again. A server that is alive answers in a hundredth of this.
const INSIST: Duration = Duration::from_secs(2);

/// Why a question has no good answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Not within the time. It may have been carried out.
    Late,
    /// Nobody listens there: no stream, or JetStream is not there yet.
    Nobody,
    /// The server says no.
    Refused(super::jetstream::Refusal),
    /// An answer that cannot be read.
    Strange(String),
    /// The message is larger than the server takes.
    TooLarge,
    /// The client has ended.
    Ended,
}

#[derive(Clone, Debug)]
pub(crate) struct Link {
    client: Client,
    /// How many connections there have been.
    connections: watch::Receiver<u64>,
    limit: Duration,
}

impl Link {
    pub(crate) async fn connect(options: &NatsOptions) -> Result<Self, NatsError> {
        let unreachable = |error: async_nats::Error| NatsError::Unreachable(error);
        let wants_tls = wants_tls(&options.servers) || options.tls != NatsTls::default();
        if !cfg!(feature = "nats-tls") && wants_tls {
            return Err(NatsError::NoTls);
        }
        let (count, connections) = watch::channel(0_u64);
        let connecting = with_events(client_options(options).await?, count);
        let servers: Vec<String> = options.servers.split(',').map(|s| s.trim().into()).collect();
        // In a task of its own: without a provider of cryptography the client panics at a server that demands TLS.
        let connecting = tokio::spawn(connecting.connect(servers));
        let client = match tokio::time::timeout(options.call_within, connecting).await {
            Ok(Ok(Ok(client))) => client,
            Ok(Ok(Err(error))) => return Err(unreachable(error.into())),
            Ok(Err(_)) => return Err(NatsError::NoTls),
            Err(late) => return Err(unreachable(late.into())),
        };
        let version = client.server_info().version;
        if parsed(&version).is_none_or(|version| version < OLDEST) {
            return Err(NatsError::OldServer(version));
        }
        Ok(Self { client, connections, limit: options.call_within })
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// Of the server that it is connected to.
    pub(crate) fn version(&self) -> Option<(u64, u64)> {
        parsed(&self.client.server_info().version)
    }

    /// Whether the server may count a delivery that nobody was given, and leave the message to the ack wait: one that is delivered again when all requests
    /// for messages have just ended (its changes 5305 and 5338, in 2.10.15). It also says then that it has delivered less than it has.
    pub(crate) fn miscounts(&self) -> bool {
        self.version().is_none_or(|version| version < (2, 11))
    }

    /// Changes with every new connection.
    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        let mut connections = self.connections.clone();
        connections.mark_unchanged();
        connections
    }

    /// When a question asked now has to be answered.
    pub(crate) fn patience(&self) -> Instant {
        Instant::now() + self.limit
    }

    /// Asks until there is an answer. What is asked must do no harm when it is carried out twice. `headers` are made anew for
    /// each time: a map of them is dear to copy, and hardly ever sent twice.
    pub(crate) async fn ask(
        &self,
        subject: &str,
        headers: Option<&(dyn Fn() -> HeaderMap + Sync)>,
        payload: Bytes,
        until: Instant,
    ) -> Result<Message, Fault> {
        // The limit of time stands here, for the whole of it.
        let ask = || {
            let mut request = Request::new().payload(payload.clone()).timeout(None);
            if let Some(headers) = headers {
                request = request.headers(headers());
            }
            self.client.send_request(subject.to_owned(), request)
        };
        loop {
            let mut connections = self.connections();
            let mut asked = std::pin::pin!(ask());
            let soon = until.min(Instant::now() + INSIST);
            tokio::select! {
                biased;
                answer = &mut asked => return answer.map_err(|error| Fault::from(&error)),
                Ok(()) = connections.changed() => continue,
                () = sleep_until(soon) => {}
            }
            tokio::select! {
                answer = insist(asked, ask, until) => return answer,
                Ok(()) = connections.changed() => {}
            }
        }
    }

    /// Sends without waiting for more than room in the client's line.
    pub(crate) async fn tell(
        &self,
        subject: async_nats::Subject,
        payload: Bytes,
    ) -> Result<(), Fault> {
        let sending = self.client.publish(subject, payload);
        match timeout_at(self.patience(), sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Fault::Ended),
            Err(_) => Err(Fault::Late),
        }
    }

    /// Returns once the server has read all that was sent before: a message to oneself. The client's own flush only
    /// says that the bytes have left.
    pub(crate) async fn round_trip(&self, until: Instant) -> Result<(), Fault> {
        let inbox = self.client.new_inbox();
        let whole = async {
            loop {
                let mut connections = self.connections();
                let mut echo =
                    self.client.subscribe(inbox.clone()).await.map_err(|_| Fault::Ended)?;
                self.client.publish(inbox.clone(), Bytes::new()).await.map_err(|_| Fault::Ended)?;
                tokio::select! {
                    heard = echo.next() => {
                        return heard.map(drop).ok_or(Fault::Ended);
                    }
                    Ok(()) = connections.changed() => {}
                }
            }
        };
        timeout_at(until, whole).await.unwrap_or(Err(Fault::Late))
    }
}

/// Asks again and again, and takes whichever answer comes first: who should have answered may be gone, as the leader of a cluster, and the next one has
/// not heard the question.
async fn insist<F>(
    first: impl Future<Output = Answer> + Send,
    again: impl Fn() -> F,
    until: Instant,
) -> Result<Message, Fault>
where
    F: Future<Output = Answer> + Send,
{
    let mut asked = FuturesUnordered::new();
    asked.push(first.left_future());
    let mut pause = INSIST;
    loop {
        let now = Instant::now();
        if now >= until {
            return Err(Fault::Late);
        }
        // Not to press a server that is only slow.
        pause *= 2;
        asked.push(again().right_future());
        tokio::select! {
            Some(answer) = asked.next() => return answer.map_err(|error| Fault::from(&error)),
            () = sleep_until(until.min(now + pause)) => {}
        }
    }
}

type Answer = Result<Message, RequestError>;

impl From<&RequestError> for Fault {
    fn from(error: &RequestError) -> Self {
        match error.kind() {
            RequestErrorKind::NoResponders => Self::Nobody,
            RequestErrorKind::TimedOut => Self::Late,
            RequestErrorKind::MaxPayloadExceeded => Self::TooLarge,
            RequestErrorKind::InvalidSubject => Self::Strange(error.to_string()),
            RequestErrorKind::Other => Self::Ended,
        }
    }
}

fn parsed(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parsed("2.9.10"), Some((2, 9)));
        assert!(parsed("2.10.1") > parsed("2.9.25"));
        assert!(parsed("3.0.0-beta.1") > Some(OLDEST));
        assert_eq!(parsed("edge"), None);
    }
}
