//! One series: what tells it from others, and what it has measured.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;

use super::{
    exemplars::Exemplars,
    histogram::{BUCKETS, Spans},
    table::Table,
};
use crate::{SpanKind, names::MethodName, watched::End};

/// What tells one series from another. Texts are from the program, or from requests within a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) facts: Facts,
    /// The matched route, the operation, or the method of a remote procedure call.
    pub(crate) route: Option<&'a str>,
    /// Whom a client calls.
    pub(crate) peer: Option<&'a str>,
}

/// What has so few values that it fits into a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: SpanKind,
    pub(crate) method: MethodName,
    /// 0 where there was no answer.
    pub(crate) status: u16,
    pub(crate) protocol: Protocol,
    /// One that gRPC defines, so at most 16.
    pub(crate) grpc_status: Option<u8>,
    pub(crate) end: End,
}

/// What a request says about how it came, from closed sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) scheme: Scheme,
    pub(crate) version: Version,
    /// It is a call by gRPC, which has metrics of its own.
    pub(crate) grpc: bool,
}

/// `http` unless the request names another; of those only `https` is told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scheme {
    #[default]
    Http,
    Https,
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Version {
    /// No request of HTTP, or one that nobody knows.
    #[default]
    None,
    Http10,
    Http11,
    Http2,
    Http3,
}

#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) facts: Facts,
    route: Option<Box<str>>,
    peer: Option<Box<str>>,
    pub(crate) spans: Spans,
    pub(crate) exemplars: Exemplars<BUCKETS>,
}

impl Series {
    pub(crate) fn key(&self) -> Key<'_> {
        Key { facts: self.facts, route: self.route.as_deref(), peer: self.peer.as_deref() }
    }
}

/// All series, at most so many.
#[derive(Debug)]
pub(crate) struct AllSeries {
    table: Table<Series>,
    hasher: RandomState,
}

impl AllSeries {
    pub(crate) fn new(max: usize) -> Self {
        Self { table: Table::new(max), hasher: RandomState::default() }
    }

    /// The series of `key`, made if there is room for one more.
    #[inline]
    pub(crate) fn get(&self, key: &Key<'_>) -> Option<&Series> {
        let make = || Series {
            facts: key.facts,
            route: key.route.map(Into::into),
            peer: key.peer.map(Into::into),
            spans: Spans::default(),
            exemplars: Exemplars::default(),
        };
        self.table.get(self.hash(key), |series| series.key() == *key, make)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Series> {
        self.table.iter()
    }

    fn hash(&self, key: &Key<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(key.facts.word());
        hasher.write(key.route.unwrap_or_default().as_bytes());
        hasher.write(key.peer.unwrap_or_default().as_bytes());
        hasher.finish()
    }
}

impl Facts {
    pub(crate) fn word(self) -> u64 {
        let Protocol { scheme, version, grpc } = self.protocol;
        [
            self.kind as u64,
            self.method.index() as u64,
            scheme as u64,
            version as u64,
            u64::from(grpc),
            u64::from(self.grpc_status.map_or(31, |code| code.min(30))),
            self.end as u64,
        ]
        .into_iter()
        .fold(u64::from(self.status), |word, fact| word << 5 | fact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(status: u16) -> Key<'static> {
        let facts = Facts {
            kind: SpanKind::Server,
            method: MethodName::NONE,
            status,
            protocol: Protocol::default(),
            grpc_status: None,
            end: End::Complete,
        };
        Key { facts, route: None, peer: None }
    }

    #[test]
    fn what_differs_in_anything_is_another_series() {
        let all = AllSeries::new(100);
        let base = key(200);
        let with = |change: fn(&mut Key<'static>)| {
            let mut other = base;
            change(&mut other);
            other
        };
        let keys = [
            base,
            key(201),
            with(|key| key.facts.kind = SpanKind::Client),
            with(|key| key.facts.method = MethodName::of(&http::Method::GET)),
            with(|key| key.facts.protocol.scheme = Scheme::Https),
            with(|key| key.facts.protocol.version = Version::Http2),
            with(|key| key.facts.protocol.grpc = true),
            with(|key| key.facts.grpc_status = Some(0)),
            with(|key| key.facts.grpc_status = Some(16)),
            with(|key| key.facts.end = End::Cancelled),
            with(|key| key.route = Some("a")),
            with(|key| key.peer = Some("a")),
        ];
        for (times, key) in (1..).zip(&keys) {
            for _ in 0..times {
                all.get(key).unwrap().spans.record(7);
            }
        }
        assert_eq!(all.iter().count(), keys.len());
        for (times, key) in (1..).zip(&keys) {
            assert_eq!(all.get(key).unwrap().spans.read().count(), times);
        }
        let mut hashes: Vec<_> = keys.iter().map(|key| all.hash(key)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert!(
            hashes.len() >= keys.len() - 1,
            "only which of the texts it is may be hashed alike"
        );
    }
}
