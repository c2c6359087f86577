use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use crate::{Console, Page};

/// How often a page is read, however many look at it.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// A line at least so often, so that whoever is gone is noticed.
const SILENCE: Duration = Duration::from_secs(10);
/// How long one answer lasts; then the page asks again. A server that drains waits no longer than that.
const LASTS: Duration = Duration::from_secs(30);
/// How many may follow.
const VIEWERS: usize = 64;

/// How long a part is waited for. One that hangs is told of, and does not keep the page as it was.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the part answers, or why it does not.
pub(crate) async fn within<T, E: fmt::Display>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// The last reading of one page, shared by all who look.
#[derive(Default)]
pub(crate) struct Shown(Mutex<Last>);

#[derive(Default)]
struct Last {
    read: Option<(Instant, Text)>,
    being_read: bool,
}

/// Clones share the text. Numbers grow with each change.
#[derive(Clone)]
pub(crate) struct Text {
    number: u64,
    pub(crate) json: Bytes,
}

/// Takes the mark back, also if the reading is cancelled.
struct BeingRead<'a>(&'a Shown);

impl Drop for BeingRead<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).being_read = false;
    }
}

impl Shown {
    /// What is new enough, or old, while somebody else reads. No lock is held while it is read.
    fn enough(&self) -> Result<Text, BeingRead<'_>> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = EVERY - EVERY / 10;
        match &last.read {
            Some((at, text)) if last.being_read || at.elapsed() < fresh => Ok(text.clone()),
            _ => {
                last.being_read = true;
                Err(BeingRead(self))
            }
        }
    }

    fn set(&self, json: String) -> Text {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match &last.read {
            Some((_, text)) if text.json == json.as_bytes() => text.clone(),
            before => {
                let number = before.as_ref().map_or(0, |(_, text)| text.number + 1);
                Text { number, json: json.into() }
            }
        };
        last.read = Some((Instant::now(), text.clone()));
        text
    }
}

impl Console {
    /// The page as JSON, at most a second old.
    pub(crate) async fn read(&self, page: Page) -> Text {
        let shown = self.shown(page);
        match shown.enough() {
            Ok(text) => text,
            Err(_being_read) => shown.set(self.page(page).await.to_string()),
        }
    }

    /// Server-sent events: the page whenever it has changed. `None` if too many follow.
    pub(crate) fn follow(self: Arc<Self>, page: Page) -> Option<Body> {
        let seat = Seat::take(&self)?;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        let follower = Follower { seat, page, ticks, until: now + LASTS, said: now, seen: None };
        let events = stream::unfold(follower, |mut follower| async move {
            let event = follower.next().await?;
            Some((Ok::<_, Infallible>(event), follower))
        });
        Some(Body::from_stream(events))
    }
}

/// A place among those who follow.
struct Seat(Arc<Console>);

impl Seat {
    fn take(console: &Arc<Console>) -> Option<Self> {
        let more = |seats: usize| (seats < VIEWERS).then_some(seats + 1);
        console.viewers.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Self(console.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.viewers.fetch_sub(1, Relaxed);
    }
}

struct Follower {
    seat: Seat,
    page: Page,
    ticks: Interval,
    until: Instant,
    said: Instant,
    seen: Option<u64>,
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let now = self.ticks.tick().await;
            if now >= self.until {
                return None;
            }
            let text = self.seat.0.read(self.page).await;
            if self.seen != Some(text.number) {
                self.seen = Some(text.number);
                self.said = now;
                // JSON has no line breaks of its own, so it is one line of data.
                return Some([b"data: ".as_slice(), &text.json, b"\n\n"].concat().into());
            }
            if now - self.said >= SILENCE {
                self.said = now;
                return Some(Bytes::from_static(b":\n\n"));
            }
        }
    }
}
