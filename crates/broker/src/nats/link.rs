//! The connection: every question has a limit of time, and one that a reconnection has orphaned is asked again.
//!
//! The client below sends commands in the order of its callers and resubscribes by itself; it knows no answer that will
//! never come. `connections` does: what was asked over an earlier connection is lost.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, HeaderMap, Message, Request, RequestErrorKind};
use bytes::Bytes;
use rand::RngExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use super::{NatsError, NatsOptions};

/// Oldest server that does what this engine asks: earlier ones have no `next_by_subj` and no threshold of idleness for
/// durable consumers.
const OLDEST: (u64, u64) = (2, 9);

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
        if !cfg!(feature = "nats-tls") && wants_tls(&options.servers) {
            return Err(NatsError::NoTls);
        }
        let (count, connections) = watch::channel(0_u64);
        let connecting = with_events(client_options(options), count);
        let servers: Vec<String> = options.servers.split(',').map(|s| s.trim().into()).collect();
        // In a task of its own: without a provider of cryptography the client panics at a server that demands TLS.
        let connecting = tokio::spawn(connecting.connect(servers));
        let client = match tokio::time::timeout(options.request_timeout, connecting).await {
            Ok(Ok(Ok(client))) => client,
            Ok(Ok(Err(error))) => return Err(unreachable(error.into())),
            Ok(Err(_)) => return Err(NatsError::NoTls),
            Err(late) => return Err(unreachable(late.into())),
        };
        let version = client.server_info().version;
        if parsed(&version).is_none_or(|version| version < OLDEST) {
            return Err(NatsError::OldServer(version));
        }
        Ok(Self { client, connections, limit: options.request_timeout })
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
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

    /// Asks until there is an answer. What is asked must do no harm when it is carried out twice.
    pub(crate) async fn ask(
        &self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: Bytes,
        until: Instant,
    ) -> Result<Message, Fault> {
        loop {
            let mut connections = self.connections();
            // The limit of time stands here, for the whole of it.
            let mut request = Request::new().payload(payload.clone()).timeout(None);
            if let Some(headers) = headers {
                request = request.headers(headers.clone());
            }
            let answer = tokio::select! {
                biased;
                answer = self.client.send_request(subject.to_owned(), request) => answer,
                () = sleep_until(until) => return Err(Fault::Late),
                Ok(()) = connections.changed() => continue,
            };
            return answer.map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => Fault::Nobody,
                RequestErrorKind::TimedOut => Fault::Late,
                RequestErrorKind::MaxPayloadExceeded => Fault::TooLarge,
                RequestErrorKind::InvalidSubject => Fault::Strange(error.to_string()),
                RequestErrorKind::Other => Fault::Ended,
            });
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
        use futures_util::StreamExt;
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

fn client_options(options: &NatsOptions) -> ConnectOptions {
    let connect = match &options.credentials {
        super::options::Credentials::None => ConnectOptions::new(),
        super::options::Credentials::Token(token) => ConnectOptions::with_token(token.clone()),
        super::options::Credentials::Password { user, password } => {
            ConnectOptions::with_user_and_password(user.clone(), password.clone())
        }
    };
    connect
        .name(format!("gusset-broker {}", options.namespace))
        .connection_timeout(options.request_timeout)
        // Two without an answer end the connection: a server that is gone without a word is noticed after three spans.
        .ping_interval(options.ping_interval)
        .request_timeout(None)
        .reconnect_delay_callback(reconnect_delay)
}

/// Exponential up to 2 s, the upper half of it at random, so that the clients of a server that comes back do not all
/// come at once.
fn reconnect_delay(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(5);
    let ceiling = Duration::from_millis(50 << doublings).min(Duration::from_secs(2));
    ceiling.mul_f64(rand::rng().random_range(0.5..=1.0))
}

fn with_events(options: ConnectOptions, count: watch::Sender<u64>) -> ConnectOptions {
    let count = std::sync::Arc::new(count);
    options.event_callback(move |event| {
        match &event {
            Event::Connected => {
                count.send_modify(|count| *count += 1);
                tracing::info!("connected to NATS");
            }
            Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => {
                tracing::warn!(%event, "NATS");
            }
            _ => tracing::info!(%event, "NATS"),
        }
        std::future::ready(())
    })
}

fn wants_tls(servers: &str) -> bool {
    servers.split(',').any(|server| {
        server.split_once("://").is_some_and(|(scheme, _)| matches!(scheme.trim(), "tls" | "wss"))
    })
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

    #[test]
    fn the_delay_before_a_reconnection_grows_to_two_seconds() {
        for attempt in [0, 1, 2, 5, 6, 7, 1_000, usize::MAX] {
            let delay = reconnect_delay(attempt);
            assert!(delay <= Duration::from_secs(2), "{attempt} {delay:?}");
        }
        assert!(reconnect_delay(1) <= Duration::from_millis(50));
        assert!(reconnect_delay(100) >= Duration::from_millis(800));
    }

    #[test]
    fn addresses_that_need_tls_are_recognised() {
        assert!(wants_tls("nats://a, tls://b"));
        assert!(!wants_tls("nats://a:4222,b:4222"));
    }
}
