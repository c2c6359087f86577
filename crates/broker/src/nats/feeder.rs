//! Fetches messages for the workers of one subscription, as many as they ask for.
//!
//! One task, which holds the inbox to which the server delivers. What it asked for (`outstanding`) it knows to be lost when the
//! connection was, when the server says so, or when no sign of life comes; then it asks anew.

use std::{sync::Arc, time::Duration};

use async_nats::{Message as Wire, Subscriber, connection::State};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    core::Core,
    hall::Hall,
    keeper::{Ledger, is_early},
    layout::nanos,
    wire::{self, Delivered, Unreadable},
};
use crate::engine::Lease;

/// How long a request for messages stands. What a worker no longer wants cannot be called back: whoever stopped listening would
/// lose what is on its way. So it is short, and the answer that nothing came is the server's sign of life.
const STANDS: Duration = Duration::from_secs(1);
/// How long no sign of life is tolerated.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a message may find no worker.
const UNWANTED: Duration = Duration::from_millis(500);
/// How often it looks whether somebody takes too long.
const TICK: Duration = Duration::from_millis(100);
/// How long it waits after the server has refused a request.
const REFUSED: Duration = Duration::from_millis(250);
/// How long a message that this program cannot read is left for others.
const NOT_FOR_US: Duration = Duration::from_secs(30);

pub(crate) struct Feeder {
    core: Arc<Core>,
    ledger: Arc<Ledger>,
    hall: Arc<Hall>,
    /// The group as a token, which is the name of the consumer.
    token: String,
    inbox: String,
    letters: Subscriber,
    connections: watch::Receiver<u64>,
    /// Messages asked for that have not come.
    outstanding: usize,
    /// Highest place in the stream of a message that was delivered to the group before this began, or to this.
    newest: u64,
    /// The latest of those that came just now.
    latest: Option<Delivered>,
    /// When there was last a sign of life.
    heard: Instant,
    not_before: Instant,
    looking: FuturesUnordered<BoxFuture<'static, (u64, Lease)>>,
    /// Dropped with this, which is how others see that it has ended.
    _runs: watch::Sender<()>,
}

impl Feeder {
    pub(crate) async fn new(
        ledger: Arc<Ledger>,
        hall: Arc<Hall>,
        newest: u64,
        runs: watch::Sender<()>,
    ) -> Result<Self, async_nats::SubscribeError> {
        let (core, token) = (ledger.core().clone(), ledger.token().to_owned());
        let client = core.link.client();
        let inbox = client.new_inbox();
        let letters = client.subscribe(inbox.clone()).await?;
        let (connections, now) = (core.link.connections(), Instant::now());
        Ok(Self {
            core,
            ledger,
            hall,
            token,
            inbox,
            letters,
            connections,
            outstanding: 0,
            newest,
            latest: None,
            heard: now,
            not_before: now,
            looking: FuturesUnordered::new(),
            _runs: runs,
        })
    }

    /// Runs until the hall is closed, nothing is on its way any more and nobody is at work, or the client has ended. Until then the server hears of those who
    /// are at work, or it would deliver to others what they have.
    pub(crate) async fn run(mut self) {
        let working = (self.core.options.ack_wait / 3).max(Duration::from_millis(10));
        let mut tick = interval(working.min(TICK));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if !self.hall.is_stopped() {
                self.ask_for_more().await;
            } else if self.outstanding == 0
                && self.looking.is_empty()
                && self.ledger.in_flight() == 0
            {
                return;
            } else {
                self.ledger.leave();
            }
            let wake = self.wake_at();
            tokio::select! {
                letter = self.letters.next() => match letter {
                    Some(letter) => self.open_all(letter).await,
                    None => return,
                },
                Some(lease) = self.looking.next(), if !self.looking.is_empty() => self.hall.bring(lease),
                () = self.hall.changed() => {}
                Ok(()) = self.connections.changed() => self.outstanding = 0,
                () = sleep_until(wake) => self.silence().await,
                _ = tick.tick() => {
                    self.ledger.end_overdue();
                    self.ledger.still_working(working).await;
                    if let Some(before) = Instant::now().checked_sub(UNWANTED) {
                        drop(self.hall.unwanted(before));
                    }
                }
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        if self.outstanding > 0 {
            self.heard + SILENCE
        } else if self.not_before > now {
            self.not_before
        } else {
            now + SILENCE
        }
    }

    async fn ask_for_more(&mut self) {
        let demand = self.hall.demand();
        let coming = demand.ready + self.looking.len() + self.outstanding;
        let wanted = demand.asking.saturating_sub(coming);
        // While some are on their way, in halves, so that not every message has a request of its own.
        let enough = self.outstanding == 0 || wanted * 2 >= demand.asking;
        let now = Instant::now();
        if wanted == 0 || !enough || now < self.not_before {
            return;
        }
        let client = self.core.link.client();
        if client.connection_state() != State::Connected {
            self.not_before = now + REFUSED;
            return;
        }
        let stream = &self.core.layout.messages;
        let place = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", self.token);
        let request = json!({ "batch": wanted, "expires": nanos(STANDS) });
        let sent =
            client.publish_with_reply(place, self.inbox.clone(), request.to_string().into()).await;
        if sent.is_ok() {
            if self.outstanding == 0 {
                self.heard = now;
            }
            self.outstanding += wanted;
        }
    }

    /// This letter and all that came with it.
    async fn open_all(&mut self, first: Wire) {
        self.heard = Instant::now();
        let mut next = Some(first);
        while let Some(letter) = next {
            match letter.status {
                None => self.open(letter).await,
                Some(status) => {
                    let why = letter.description.clone().unwrap_or_default();
                    self.told(status.as_u16(), &why, &letter).await;
                }
            }
            next = self.letters.next().now_or_never().flatten();
        }
        if let Some(latest) = self.latest.take() {
            self.core.note_latest(latest);
        }
    }

    async fn open(&mut self, letter: Wire) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let Some(reply) = letter.reply else { return };
        let Some(delivered) = Delivered::read(&reply) else { return };
        if self.latest.is_none_or(|known| known.at < delivered.at) {
            self.latest = Some(delivered);
        }
        let subject = self.core.layout.subject_of(&letter.subject).ok_or(Unreadable::Subject);
        let read = subject.and_then(|subject| {
            wire::read(subject, letter.headers.as_ref(), letter.payload, delivered)
        });
        match read {
            Ok((message, route)) => {
                if route.group.as_ref().is_some_and(|group| *group != self.token) {
                    // Redriven to another group; to this one it was delivered before.
                    let _ = self.core.link.tell(reply, "+ACK".into()).await;
                    return;
                }
                if is_early(&message) {
                    self.newest = self.newest.max(delivered.seq);
                    return self.ledger.postpone(reply, message, route, delivered);
                }
                // To one connection the server delivers in order what it delivers for the first time. It has been seen
                // to forget how often it had delivered a message.
                let is_first = delivered.times == 1 && delivered.seq > self.newest;
                self.newest = self.newest.max(delivered.seq);
                let lending = self.ledger.clone().lend(reply, message, route, delivered, is_first);
                if !is_first {
                    self.looking.push(lending.boxed());
                } else if let Some(lease) = lending.now_or_never() {
                    // Nothing had to be asked.
                    self.hall.bring(lease);
                }
            }
            Err(why) => {
                tracing::error!(
                    consumer = self.token,
                    seq = delivered.seq,
                    ?why,
                    "a message that this program cannot read is left to others"
                );
                let nak = format!("-NAK {{\"delay\":{}}}", nanos(NOT_FOR_US));
                let _ = self.core.link.tell(reply, nak.into()).await;
            }
        }
    }

    /// What the server says about a request.
    async fn told(&mut self, status: u16, why: &str, letter: &Wire) {
        match status {
            100 => {}
            404 | 408 => {
                let pending = letter.headers.as_ref().and_then(|h| h.get("Nats-Pending-Messages"));
                let pending = pending.and_then(|pending| pending.as_str().parse().ok());
                self.outstanding = self.outstanding.saturating_sub(pending.unwrap_or(usize::MAX));
            }
            _ => {
                tracing::info!(consumer = self.token, status, why, "request for messages ended");
                self.outstanding = 0;
                self.not_before = Instant::now() + REFUSED;
                // A stream that is made again counts from one.
                self.newest = 0;
                self.look_after_group().await;
            }
        }
    }

    /// If nothing was heard for too long, either the server does not answer, or it does not know of the request.
    async fn silence(&mut self) {
        if self.outstanding == 0 || self.heard.elapsed() < SILENCE {
            return;
        }
        self.heard = Instant::now();
        if self.hall.is_stopped() {
            self.outstanding = 0;
        } else if self.look_after_group().await {
            // It answers, so what was asked before has been answered or never will be.
            self.outstanding = 0;
        }
    }

    async fn look_after_group(&mut self) -> bool {
        let looked_after = self.core.restore().await;
        if let Err(error) = &looked_after {
            tracing::warn!(consumer = self.token, %error, "group cannot be looked after");
        }
        looked_after.is_ok()
    }
}
