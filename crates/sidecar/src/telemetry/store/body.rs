//! Answers, also those that go on for ever.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use serde::Serialize;
use tokio::time::{Instant, Sleep, sleep};

use super::{Followers, LogQuery, Store, TraceQuery};
use crate::{Cursor, Recorder, telemetry::log::LogRing};

/// Most who follow at a time.
const FOLLOWERS: usize = 64;
/// How often they look for what is new: a human does not see the difference, and who logs has nobody to wake.
const TICK: Duration = Duration::from_millis(250);
/// A sign of life for the proxies between, which close what is silent for a minute.
const ALIVE: Duration = Duration::from_secs(15);
/// How many logs or spans are read for one piece of the body.
const STEP: usize = 100;

/// Body of the answers of a [`StoreService`](super::StoreService).
#[derive(Debug)]
pub struct StoreBody(Kind);

#[derive(Debug)]
enum Kind {
    Whole(Full<Bytes>),
    Follow(Pin<Box<Follow>>),
}

struct Follow {
    what: What,
    tick: Pin<Box<Sleep>>,
    last: Instant,
    place: Place,
}

enum What {
    Logs { ring: Arc<LogRing>, query: LogQuery, next: u64 },
    Spans { recorder: Option<Recorder>, query: TraceQuery, cursor: Cursor },
}

/// One of the places for followers, given back when it is dropped.
struct Place(Arc<Followers>);

impl Place {
    fn take(followers: &Arc<Followers>) -> Option<Self> {
        if followers.closed.load(Relaxed) {
            return None;
        }
        let more = |count| (count < FOLLOWERS).then_some(count + 1);
        followers.count.fetch_update(AcqRel, Relaxed, more).ok()?;
        Some(Self(followers.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, AcqRel);
    }
}

impl StoreBody {
    /// The logs that come, or those from number `from` on. None if there is no place.
    pub(super) fn logs(store: &Store, query: LogQuery, from: Option<u64>) -> Option<Self> {
        let logged = store.logs.counts().0;
        // One who saw more than there was followed another process, and has seen nothing of this one.
        let next = from.map_or(logged, |from| if from > logged { 0 } else { from });
        Self::follow(store, What::Logs { ring: store.logs.clone(), query, next })
    }

    /// The spans that end from now on. None if there is no place.
    pub(super) fn spans(store: &Store, query: TraceQuery) -> Option<Self> {
        let (recorder, mut cursor) = (store.recorder.clone(), Cursor::default());
        if let Some(recorder) = &recorder {
            for _ in 0..=recorder.stats().capacity.div_ceil(STEP) {
                if recorder.read(&mut cursor, STEP).is_empty() {
                    break;
                }
            }
        }
        Self::follow(store, What::Spans { recorder, query, cursor })
    }

    fn follow(store: &Store, what: What) -> Option<Self> {
        let place = Place::take(&store.followers)?;
        let tick = Box::pin(sleep(Duration::ZERO));
        Some(Self(Kind::Follow(Box::pin(Follow { what, tick, last: Instant::now(), place }))))
    }
}

impl Default for StoreBody {
    fn default() -> Self {
        Full::default().into()
    }
}

impl From<Full<Bytes>> for StoreBody {
    fn from(body: Full<Bytes>) -> Self {
        Self(Kind::Whole(body))
    }
}

impl Body for StoreBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Kind::Whole(body) => Pin::new(body).poll_frame(cx),
            Kind::Follow(follow) => {
                let piece = ready!(follow.as_mut().poll_piece(cx));
                Poll::Ready(piece.map(|piece| Ok(Frame::data(piece.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(body) => body.is_end_stream(),
            Kind::Follow(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(body) => body.size_hint(),
            Kind::Follow(_) => SizeHint::default(),
        }
    }
}

impl Follow {
    /// What has come since, read when the reader has room for it and not before.
    fn poll_piece(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<String>> {
        loop {
            ready!(self.tick.as_mut().poll(cx));
            if self.place.0.closed.load(Relaxed) {
                return Poll::Ready(None);
            }
            let (piece, more) = self.what.read();
            let now = Instant::now();
            if !more {
                self.tick.as_mut().reset(now + TICK);
            }
            if !piece.is_empty() {
                self.last = now;
                return Poll::Ready(Some(piece));
            }
            if now.saturating_duration_since(self.last) >= ALIVE {
                self.last = now;
                return Poll::Ready(Some(":\n\n".into()));
            }
        }
    }
}

impl What {
    /// The next events, and whether there may be more at once.
    fn read(&mut self) -> (String, bool) {
        let mut piece = String::new();
        let read = match self {
            Self::Logs { ring, query, next } => {
                let (logs, missed) = ring.read(next, STEP);
                if missed > 0 {
                    event(&mut piece, "missed", None, &missed);
                }
                for log in logs.iter().filter(|log| query.wants(log)) {
                    event(&mut piece, "log", Some(log.number), &**log);
                }
                logs.len()
            }
            Self::Spans { recorder, query, cursor } => {
                let Some(recorder) = recorder else { return (piece, false) };
                let before = cursor.missed();
                let records = recorder.read(cursor, STEP);
                let missed = cursor.missed() - before;
                if missed > 0 {
                    event(&mut piece, "missed", None, &missed);
                }
                for record in records.iter().filter(|record| query.wants_span(record)) {
                    event(&mut piece, "span", None, record);
                }
                records.len()
            }
        };
        (piece, read == STEP)
    }
}

/// JSON has no line breaks, so that the event is one line of data.
fn event(to: &mut String, name: &str, id: Option<u64>, data: &impl Serialize) {
    let Ok(json) = serde_json::to_string(data) else { return };
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    to.push_str(&format!("event: {name}\n{id}data: {json}\n\n"));
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("last", &self.last).finish_non_exhaustive()
    }
}
