//! What engine, groups and the operator's tools share: the connection, the streams, publishing.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_call::{BoxError, Context, DeadlineExceeded, Overloaded};
use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    NatsError, NatsOptions,
    jetstream::{CONSUMER_NOT_FOUND, STREAM_EXISTS, STREAM_NOT_FOUND, Stored},
    layout::{Layout, RETAINED, SETTLED, check_format},
    link::{Fault, Link},
    recount::Latest,
    wire::{self, Route},
};
use crate::{Error, Limits, Message};

/// How much of the server's bound on a message is kept for what this engine writes beside it: the errors of a dead
/// letter with all their escapes, and names.
const RESERVED: usize = 24 << 10;

/// How long a publish waits before it asks again a stream that was full, or not there.
const AGAIN: Duration = Duration::from_millis(50);

/// How much time there must be at least to ask a stream again that was full, if there is as much: whoever gets no answer does not know whether it took the message.
const ENOUGH: Duration = Duration::from_millis(250);

/// How long something that is gone is left alone before it is made again. A server says that a stream or a consumer is
/// deleted before it has deleted the files, and would delete those of the new one.
pub(super) const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) link: Link,
    pub(crate) layout: Layout,
    pub(crate) options: NatsOptions,
    pub(crate) limits: Limits,
    pub(crate) closed: AtomicBool,
    pub(crate) duplicates: AtomicU64,
    window: Semaphore,
    /// The consumers that this process needs, by name, to be made again if they are gone.
    needed: Mutex<HashMap<String, Value>>,
    /// Whether the stream keeps messages that have been settled.
    retained: AtomicBool,
    /// When the streams were last seen to be there. One asks for all.
    seen: tokio::sync::Mutex<Option<Instant>>,
    /// The latest message of the stream that has come here.
    pub(super) latest: Mutex<Option<Latest>>,
}

impl Core {
    pub(crate) async fn connect(options: NatsOptions, limits: Limits) -> Result<Self, NatsError> {
        options.check()?;
        let link = Link::connect(&options).await?;
        let core = Self {
            layout: Layout::new(&options.namespace),
            window: Semaphore::new(options.publish_window.min(Semaphore::MAX_PERMITS)),
            link,
            options,
            limits,
            closed: AtomicBool::new(false),
            duplicates: AtomicU64::new(0),
            needed: Mutex::default(),
            retained: AtomicBool::new(false),
            seen: tokio::sync::Mutex::default(),
            latest: Mutex::default(),
        };
        core.make_streams(core.link.patience()).await?;
        Ok(core)
    }

    /// Whether a group may begin with the past.
    pub(crate) fn is_retained(&self) -> bool {
        self.retained.load(Relaxed)
    }

    pub(super) fn needed(&self) -> MutexGuard<'_, HashMap<String, Value>> {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn need(&self, consumer: &str, config: &Value) {
        let config = remade(config);
        self.needed().insert(consumer.to_owned(), config);
    }

    pub(crate) fn need_no_more(&self, consumer: &str) {
        self.needed().remove(consumer);
    }

    /// Makes sure that streams and groups are there: at the beginning, and again when an operator, or a server that came back
    /// without its disk, has removed them. Takes the grace and what the questions take.
    pub(crate) async fn restore(&self) -> Result<(), NatsError> {
        let asked = Instant::now();
        let mut seen = self.seen.lock().await;
        if seen.is_some_and(|seen| seen >= asked) {
            return Ok(());
        }
        sleep_until(Instant::now() + GRACE).await;
        let (began, until) = (Instant::now(), self.link.patience());
        self.make_streams(until).await?;
        let needed: Vec<_> =
            self.needed().iter().map(|(name, config)| (name.clone(), config.clone())).collect();
        for (name, config) in needed {
            self.make_consumer(&name, &config, until).await?;
        }
        *seen = Some(began);
        Ok(())
    }

    async fn make_streams(&self, until: Instant) -> Result<(), NatsError> {
        for (name, config) in self.layout.streams(&self.options, &self.limits) {
            let made = match self.link.stream(&name, until).await {
                Ok(info) => info,
                Err(fault) if fault.is_refusal(STREAM_NOT_FOUND) && self.options.existing => {
                    return Err(NatsError::NoBroker(name));
                }
                Err(fault) if fault.is_refusal(STREAM_NOT_FOUND) => {
                    tracing::info!(stream = name, "stream is made");
                    match self.link.create_stream(&name, &config, until).await {
                        // Another process was quicker.
                        Err(fault) if fault.is_refusal(STREAM_EXISTS) => {
                            self.link.stream(&name, until).await?
                        }
                        made => made?,
                    }
                }
                Err(fault) => return Err(fault.into()),
            };
            check_stream(&name, &config, &made.config)?;
            if name == self.layout.messages {
                self.retained.store(made.config.retention == RETAINED, Relaxed);
            }
        }
        Ok(())
    }

    /// Makes the group unless it is there.
    pub(crate) async fn make_consumer(
        &self,
        name: &str,
        config: &Value,
        until: Instant,
    ) -> Result<(), NatsError> {
        let stream = &self.layout.messages;
        match self.link.consumer(stream, name, until).await {
            Ok(_) => return Ok(()),
            Err(fault) if fault.is_refusal(CONSUMER_NOT_FOUND) => {}
            Err(fault) => return Err(fault.into()),
        }
        match self.link.create_consumer(stream, name, config, until).await {
            Ok(_) => Ok(()),
            // Another process was quicker.
            Err(fault @ Fault::Refused(_)) => match self.link.consumer(stream, name, until).await {
                Ok(_) => Ok(()),
                Err(_) => Err(fault.into()),
            },
            Err(fault) => Err(fault.into()),
        }
    }

    /// Until when a call made here and now waits, and whether that is its own deadline.
    pub(crate) fn patience(&self) -> (Instant, bool) {
        let own = self.link.patience();
        match Context::current().deadline() {
            Some(deadline) if deadline.instant() < own => (deadline.instant(), true),
            _ => (own, false),
        }
    }

    pub(crate) fn check_size(&self, message: &Message) -> Result<(), Error> {
        let limit = self.link.client().max_payload().saturating_sub(RESERVED);
        if message.size() <= limit {
            return Ok(());
        }
        let stream = self.layout.messages.as_str().into();
        Err(Error::TooLarge { group: stream, size: message.size(), limit })
    }

    pub(crate) async fn publish(&self, message: &Message, route: &Route) -> Result<Stored, Error> {
        let (until, is_deadline) = self.patience();
        let enough = (until.saturating_duration_since(Instant::now()) / 8).min(ENOUGH);
        self.check_size(message)?;
        let late = || match is_deadline {
            true => Error::DeadlineExceeded(DeadlineExceeded),
            false => NatsError::Late.into(),
        };
        let permit = timeout_at(until, self.window.acquire()).await;
        let _permit = permit.map_err(|_| match is_deadline {
            true => Error::DeadlineExceeded(DeadlineExceeded),
            false => Error::Full(Overloaded::new("the way to the NATS server")),
        })?;
        let place = self.layout.message(message.subject().as_str());
        let nats_id = wire::nats_id(message, route);
        let headers = || wire::write(message, route, nats_id.clone());
        loop {
            let payload = message.payload().clone();
            let stored = self.link.store(&place, &headers, payload, until).await;
            let fault = match stored {
                Ok(stored) => return Ok(stored),
                Err(fault) => fault,
            };
            let full = match fault {
                Fault::Late => return Err(late()),
                Fault::Nobody => {
                    timeout_at(until, self.restore()).await.map_err(|_| late())??;
                    None
                }
                Fault::Refused(refusal) if refusal.is_full() => Some(refusal.description),
                Fault::Refused(refusal) if refusal.is_passing() => None,
                fault => return Err(NatsError::from(fault).into()),
            };
            let again = Instant::now() + AGAIN;
            if again + enough >= until {
                return Err(match full {
                    Some(why) if !is_deadline => {
                        let stream = &self.layout.messages;
                        Error::Full(Overloaded::new(format!("stream {stream}: {why}")))
                    }
                    _ => late(),
                });
            }
            sleep_until(again).await;
        }
    }
}

/// A consumer like this one that begins with all that is there: better twice than never.
pub(crate) fn remade(config: &Value) -> Value {
    let mut config = config.clone();
    config["deliver_policy"] = "all".into();
    if let Some(config) = config.as_object_mut() {
        config.retain(|setting, _| !setting.starts_with("opt_start"));
    }
    config
}

/// A stream that was there before must be ours, and keep messages as this engine needs it. Its bounds are the operator's.
fn check_stream(
    name: &str,
    wanted: &Value,
    found: &super::jetstream::StreamConfig,
) -> Result<(), NatsError> {
    check_format(&format!("stream {name}"), &found.description)?;
    // Whether messages are kept beyond their settling, who made the stream has said.
    let kept = wanted["subjects"] == serde_json::json!(found.subjects)
        && (wanted["retention"] == *found.retention || is_choice(wanted, found));
    let same = kept && wanted["discard"] == *found.discard;
    if same { Ok(()) } else { Err(NatsError::Foreign(format!("stream {name}"))) }
}

fn is_choice(wanted: &Value, found: &super::jetstream::StreamConfig) -> bool {
    let is_one = |retention: &str| [SETTLED, RETAINED].contains(&retention);
    wanted["discard"] == "new"
        && wanted["retention"].as_str().is_some_and(is_one)
        && is_one(&found.retention)
}

impl From<Fault> for NatsError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Late => Self::Late,
            Fault::Nobody => Self::NoJetStream,
            Fault::Refused(refusal) if refusal.is_not_enabled() => Self::NoJetStream,
            Fault::Refused(refusal) => {
                Self::Refused { code: refusal.err_code, description: refusal.description }
            }
            Fault::Strange(what) => Self::Strange(what),
            Fault::TooLarge => Self::Strange("message larger than the server takes".to_owned()),
            Fault::Ended => Self::Ended,
        }
    }
}

impl From<NatsError> for Error {
    fn from(error: NatsError) -> Self {
        Self::Engine(BoxError::from(error))
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        NatsError::from(fault).into()
    }
}
