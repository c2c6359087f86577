//! The calls to etcd that a registry needs, each bounded in time by its [`Link`].

use std::{future::ready, time::Duration};

use futures_util::stream;
use tonic::Status;

use super::{
    keys::Span,
    link::Link,
    rpc::{
        Compare, DeleteRequest, GrantRequest, GrantResponse, KeepAliveResponse, KeyValue,
        LeaseRequest, Operation, PutRequest, RangeRequest, RangeResponse, RequestOp,
        RevokeResponse, TimeToLiveRequest, TimeToLiveResponse, TxnRequest, TxnResponse, path,
    },
};

/// So many instances in one answer. Each has at most some 60 KiB, so these are at most 30 MiB.
const PAGE: usize = 500;

/// The keys of a span at one revision, in order.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) revision: i64,
    pub(super) pairs: Vec<KeyValue>,
    /// There are more than were asked for.
    pub(super) more: bool,
}

/// So many keys are compared at once; etcd takes 128 operations unless told otherwise.
pub(super) const COMPARED: usize = 100;

/// Lists up to `limit` keys, all as they are at one revision, with what has been committed before the call.
pub(super) async fn list(link: &Link, span: &Span, limit: usize) -> Result<Listing, Status> {
    let mut listing = Listing::default();
    let mut key = span.begin.clone();
    loop {
        let room = limit - listing.pairs.len();
        let request = RangeRequest {
            key,
            range_end: span.end.clone(),
            limit: room.min(PAGE) as i64,
            revision: listing.revision,
            keys_only: false,
        };
        let page: RangeResponse = link.ask(path::RANGE, request).await?;
        if listing.revision == 0 {
            listing.revision = page.header.map_or(0, |header| header.revision);
        }
        listing.pairs.extend(page.kvs);
        listing.more = page.more;
        match listing.pairs.last() {
            Some(last) if page.more && listing.pairs.len() < limit => key = after(&last.key),
            _ => return Ok(listing),
        }
    }
}

/// One key that is in the span and not less than `from`, with up to 499 that follow.
pub(super) async fn keys(link: &Link, from: Vec<u8>, end: Vec<u8>) -> Result<Listing, Status> {
    let request = RangeRequest {
        key: from,
        range_end: end,
        limit: PAGE as i64,
        revision: 0,
        keys_only: true,
    };
    let page: RangeResponse = link.ask(path::RANGE, request).await?;
    Ok(Listing { revision: 0, pairs: page.kvs, more: page.more })
}

pub(super) async fn get(link: &Link, key: &[u8]) -> Result<Option<KeyValue>, Status> {
    let request = RangeRequest { key: key.to_vec(), ..Default::default() };
    let answer: RangeResponse = link.ask(path::RANGE, request).await?;
    Ok(answer.kvs.into_iter().next())
}

/// The least key after this one.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// What came of a change that was to happen only if nobody else had changed the key.
#[derive(Debug)]
pub(super) enum Swap {
    /// It happened, at this revision.
    Done(i64),
    /// It did not: this is there.
    Found(KeyValue),
    /// It did not: nothing is there.
    Absent,
}

/// Which lease a key is put on.
#[derive(Clone, Copy, Debug)]
pub(super) enum On {
    Lease(i64),
    /// The one that it is on already.
    Same,
}

/// Puts the key if it was last changed at `expected`; with 0, if it does not exist.
pub(super) async fn put(
    link: &Link,
    key: &[u8],
    value: Vec<u8>,
    on: On,
    expected: i64,
) -> Result<Swap, Status> {
    let (lease, ignore_lease) = match on {
        On::Lease(lease) => (lease, false),
        On::Same => (0, true),
    };
    let put = PutRequest { key: key.to_vec(), value, lease, ignore_lease };
    swap(link, key, Operation::Put(put), expected).await
}

/// Deletes the key if it was last changed at `expected`.
pub(super) async fn delete(link: &Link, key: &[u8], expected: i64) -> Result<Swap, Status> {
    swap(link, key, Operation::Delete(DeleteRequest { key: key.to_vec() }), expected).await
}

/// Those of the keys that were not last changed at the revision beside them, as they are now. No more than [`COMPARED`].
pub(super) async fn changed(link: &Link, keys: &[(Vec<u8>, i64)]) -> Result<Vec<KeyValue>, Status> {
    let compare =
        |(key, revision): &(Vec<u8>, i64)| Compare::unchanged_since(key.clone(), *revision);
    let get = |(key, _): &(Vec<u8>, i64)| {
        let range = RangeRequest { key: key.clone(), ..Default::default() };
        RequestOp { request: Some(Operation::Range(range)) }
    };
    let request = TxnRequest {
        compare: keys.iter().map(compare).collect(),
        success: Vec::new(),
        failure: keys.iter().map(get).collect(),
    };
    let answer: TxnResponse = link.ask(path::TXN, request).await?;
    let found = answer.responses.into_iter().filter_map(|response| response.range);
    let is_other = |pair: &KeyValue| !keys.contains(&(pair.key.clone(), pair.mod_revision));
    Ok(found.flat_map(|range| range.kvs).filter(is_other).collect())
}

async fn swap(
    link: &Link,
    key: &[u8],
    operation: Operation,
    expected: i64,
) -> Result<Swap, Status> {
    let op = |operation| RequestOp { request: Some(operation) };
    let get = RangeRequest { key: key.to_vec(), ..Default::default() };
    let request = TxnRequest {
        compare: vec![Compare::unchanged_since(key.to_vec(), expected)],
        success: vec![op(operation)],
        failure: vec![op(Operation::Range(get))],
    };
    let answer: TxnResponse = link.ask(path::TXN, request).await?;
    if answer.succeeded {
        return Ok(Swap::Done(answer.header.map_or(0, |header| header.revision)));
    }
    let found = answer.responses.into_iter().next().and_then(|response| response.range);
    let found = found.and_then(|range| range.kvs.into_iter().next());
    Ok(found.map_or(Swap::Absent, Swap::Found))
}

pub(super) async fn grant(link: &Link, ttl: Duration) -> Result<i64, Status> {
    let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let granted: GrantResponse = link.ask(path::GRANT, GrantRequest { ttl }).await?;
    Ok(granted.id)
}

pub(super) async fn revoke(link: &Link, id: i64) -> Result<(), Status> {
    let _: RevokeResponse = link.ask(path::REVOKE, LeaseRequest { id }).await?;
    Ok(())
}

/// Begins the TTL of the lease anew; false if there is no such lease.
///
/// A stream for each, rather than one that lasts: it cannot be dead without being noticed.
pub(super) async fn keep_alive(link: &Link, id: i64) -> Result<bool, Status> {
    let question = stream::once(ready(LeaseRequest { id }));
    let mut answers = link.stream::<_, KeepAliveResponse>(path::KEEP_ALIVE, question).await?;
    let answer = link.bounded(answers.message()).await?;
    Ok(answer.is_some_and(|answer| answer.ttl > 0))
}

/// The keys on the lease, or `None` if there is no such lease.
pub(super) async fn keys_on(link: &Link, id: i64) -> Result<Option<Vec<Vec<u8>>>, Status> {
    let request = TimeToLiveRequest { id, keys: true };
    let answer: TimeToLiveResponse = link.ask(path::TIME_TO_LIVE, request).await?;
    Ok((answer.ttl > 0).then_some(answer.keys))
}
