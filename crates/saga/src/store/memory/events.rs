//! Events of aggregates.

use std::{collections::BTreeMap, ops::Bound::Excluded, sync::Arc};

use futures_util::{FutureExt, future::ready};

use super::MemoryStore;
use crate::{
    EventLog, EventLogError, EventLogFuture, NewEvents, Recorded, Snapshot, StoreError, StreamId,
    StreamPage, StreamSummary,
};

#[derive(Default)]
pub(super) struct Events {
    streams: BTreeMap<StreamId, Stream>,
    /// In all of them.
    count: usize,
}

#[derive(Default)]
struct Stream {
    /// Each with the key that it was kept under.
    events: Vec<(Arc<str>, Recorded)>,
    snapshot: Option<Snapshot>,
}

impl Events {
    fn extend(&mut self, new: &NewEvents, now: u64) -> Result<u64, EventLogError> {
        let count = new.events.len();
        let events = self.streams.get(&new.stream).map_or(&[][..], |stream| &stream.events);
        let found = events.len() as u64;
        if found != new.expected {
            let first = usize::try_from(new.expected).ok().and_then(|first| events.get(first));
            return match first {
                Some((key, _)) if *key == new.key => Ok(new.expected + count as u64),
                _ => Err(new.conflict(found)),
            };
        }
        if self.count + count > MemoryStore::EVENTS {
            return Err(StoreError::full("event log").into());
        }
        self.count += count;
        let stream = self.streams.entry(new.stream.clone()).or_default();
        for (version, event) in (new.expected + 1..).zip(&*new.events) {
            let (note, event, format) = (new.note.clone(), event.clone(), new.format);
            let recorded = Recorded { version, at: now, note, format, event };
            stream.events.push((new.key.clone(), recorded));
        }
        Ok(new.expected + count as u64)
    }

    fn read(&self, stream: &StreamId, after: u64, limit: usize) -> Vec<Recorded> {
        let events = self.streams.get(stream).map_or(&[][..], |stream| &stream.events);
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        let events = events.get(after..).unwrap_or_default();
        events.iter().take(limit).map(|(_, recorded)| recorded.clone()).collect()
    }

    fn keep(&mut self, stream: &StreamId, snapshot: &Snapshot) {
        // Of a stream without events there is nothing to shorten.
        let Some(stream) = self.streams.get_mut(stream) else { return };
        if stream.snapshot.as_ref().is_none_or(|there| there.version <= snapshot.version) {
            stream.snapshot = Some(snapshot.clone());
        }
    }

    fn list(&self, page: &StreamPage) -> Vec<StreamSummary> {
        let (from, end) = page.bounds();
        let streams = self.streams.range::<str, _>((Excluded(&*from), Excluded(&*end)));
        let streams = streams.take(page.limit);
        let summary = |(id, stream): (&StreamId, &Stream)| {
            let (_, last) = stream.events.last()?;
            let (stream, version, changed_at) = (id.clone(), last.version, last.at);
            Some(StreamSummary { stream, version, changed_at })
        };
        streams.filter_map(summary).collect()
    }
}

impl EventLog for MemoryStore {
    fn extend<'a>(&'a self, new: &'a NewEvents) -> EventLogFuture<'a, u64> {
        let now = self.time();
        ready(self.events().extend(new, now)).boxed()
    }

    fn read<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        limit: usize,
    ) -> EventLogFuture<'a, Vec<Recorded>> {
        ready(Ok(self.events().read(stream, after, limit))).boxed()
    }

    fn keep<'a>(&'a self, stream: &'a StreamId, snapshot: &'a Snapshot) -> EventLogFuture<'a, ()> {
        self.events().keep(stream, snapshot);
        ready(Ok(())).boxed()
    }

    fn snapshot<'a>(&'a self, stream: &'a StreamId) -> EventLogFuture<'a, Option<Snapshot>> {
        let events = self.events();
        let stream = events.streams.get(stream);
        ready(Ok(stream.and_then(|stream| stream.snapshot.clone()))).boxed()
    }

    fn streams<'a>(&'a self, page: &'a StreamPage) -> EventLogFuture<'a, Vec<StreamSummary>> {
        ready(Ok(self.events().list(page))).boxed()
    }
}
