use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::ready,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::store::{Begun, IdempotencyStore, Pending, RequestKey, StoredAnswer};

/// Parts of the store that do not wait for one another.
const SHARDS: usize = 16;

/// Keeps answers in memory, so that they end with the process. Clones are one.
///
/// At the bound the answer that was kept first makes room, and is counted ([`AnswersStats::evicted`]): its request would have an effect again. Where all keys are
/// under way, new ones get 503.
#[derive(Clone)]
pub struct AnswersInMemory(Arc<Inner>);

struct Inner {
    shards: [Mutex<Shard>; SHARDS],
    /// Of one shard.
    most: usize,
    most_bytes: usize,
    claims: AtomicU64,
    evicted: AtomicU64,
}

#[derive(Default)]
struct Shard {
    entries: HashMap<RequestKey, Entry>,
    /// Answers as they came, with the claim that each was kept under; some are gone.
    order: VecDeque<(RequestKey, u64)>,
    bytes: usize,
}

struct Entry {
    claim: u64,
    until: Instant,
    /// `None` while it is under way.
    answer: Option<Arc<StoredAnswer>>,
}

/// How full an [`AnswersInMemory`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnswersStats {
    /// Keys, those under way too.
    pub keys: usize,
    /// Bytes of answers, about.
    pub bytes: usize,
    /// Answers that made room before their time.
    pub evicted: u64,
}

impl AnswersInMemory {
    /// At most so many keys and about so many bytes of answers, each shared out among sixteen parts.
    #[must_use]
    pub fn new(keys: usize, bytes: usize) -> Self {
        Self(Arc::new(Inner {
            shards: Default::default(),
            most: keys.div_ceil(SHARDS).max(1),
            most_bytes: bytes / SHARDS,
            claims: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }))
    }

    /// How full it is.
    #[must_use]
    pub fn stats(&self) -> AnswersStats {
        let mut stats =
            AnswersStats { evicted: self.0.evicted.load(Relaxed), ..Default::default() };
        for shard in &self.0.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            stats.keys += shard.entries.len();
            stats.bytes += shard.bytes;
        }
        stats
    }

    fn shard(&self, key: &RequestKey) -> MutexGuard<'_, Shard> {
        let shard = &self.0.shards[usize::from(key.0[0]) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_now(&self, key: &RequestKey, lease: Duration) -> Begun {
        let now = Instant::now();
        let mut shard = self.shard(key);
        shard.expire(now);
        if let Some(entry) = shard.entries.get(key).filter(|entry| now < entry.until) {
            return entry.answer.clone().map_or(Begun::Running, Begun::Answered);
        }
        shard.remove(key);
        if shard.entries.len() >= self.0.most {
            shard.entries.retain(|_, entry| entry.answer.is_some() || now < entry.until);
        }
        if shard.entries.len() >= self.0.most && !self.evict(&mut shard) {
            return Begun::Full;
        }
        let claim = self.0.claims.fetch_add(1, Relaxed);
        shard.entries.insert(*key, Entry { claim, until: now + lease, answer: None });
        Begun::Claimed(claim)
    }

    fn keep_now(&self, key: &RequestKey, claim: u64, answer: Arc<StoredAnswer>, span: Duration) {
        let mut shard = self.shard(key);
        if !shard.is_claimed(key, claim) {
            return;
        }
        let answer = match answer.size() <= self.0.most_bytes {
            true => answer,
            // That it was answered is worth more than the answer.
            false => Arc::new(StoredAnswer {
                headers: http::HeaderMap::new(),
                body: None,
                trailers: None,
                ..*answer
            }),
        };
        while shard.bytes + answer.size() > self.0.most_bytes && self.evict(&mut shard) {}
        shard.bytes += answer.size();
        let until = Instant::now() + span;
        shard.entries.insert(*key, Entry { claim, until, answer: Some(answer) });
        shard.order.push_back((*key, claim));
        // Keys that were answered anew left their old places behind.
        if shard.order.len() > 2 * self.0.most {
            let Shard { entries, order, .. } = &mut *shard;
            order.retain(|(key, claim)| entries.get(key).is_some_and(|e| e.claim == *claim));
        }
    }

    /// The oldest answer goes. Whether there was one.
    fn evict(&self, shard: &mut Shard) -> bool {
        while let Some((key, claim)) = shard.order.pop_front() {
            if shard.entries.get(&key).is_some_and(|entry| entry.claim == claim) {
                shard.remove(&key);
                self.0.evicted.fetch_add(1, Relaxed);
                return true;
            }
        }
        false
    }
}

impl Shard {
    fn is_claimed(&self, key: &RequestKey, claim: u64) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.claim == claim && entry.answer.is_none())
    }

    fn remove(&mut self, key: &RequestKey) {
        if let Some(Entry { answer: Some(answer), .. }) = self.entries.remove(key) {
            self.bytes -= answer.size();
        }
    }

    /// The answers at the front whose time is over go.
    fn expire(&mut self, now: Instant) {
        while let Some((key, claim)) = self.order.front().copied() {
            let entry = self.entries.get(&key).filter(|entry| entry.claim == claim);
            match entry {
                Some(entry) if now < entry.until => return,
                Some(_) => self.remove(&key),
                None => {}
            }
            self.order.pop_front();
        }
    }
}

impl IdempotencyStore for AnswersInMemory {
    fn begin<'a>(&'a self, key: &'a RequestKey, lease: Duration) -> Pending<'a, Begun> {
        Box::pin(ready(Ok(self.begin_now(key, lease))))
    }

    fn keep<'a>(
        &'a self,
        key: &'a RequestKey,
        claim: u64,
        answer: Arc<StoredAnswer>,
        span: Duration,
    ) -> Pending<'a, ()> {
        self.keep_now(key, claim, answer, span);
        Box::pin(ready(Ok(())))
    }

    fn release(&self, key: &RequestKey, claim: u64) {
        let mut shard = self.shard(key);
        if shard.is_claimed(key, claim) {
            shard.remove(key);
        }
    }
}

/// 10,000 keys and 32 MiB.
impl Default for AnswersInMemory {
    fn default() -> Self {
        Self::new(10_000, 32 * 1024 * 1024)
    }
}

impl fmt::Debug for AnswersInMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswersInMemory").field("stats", &self.stats()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    const LEASE: Duration = Duration::from_secs(30);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// A key of the first shard.
    fn key(number: u32) -> RequestKey {
        let mut hash = [0; 32];
        hash[4..8].copy_from_slice(&number.to_be_bytes());
        RequestKey(hash)
    }

    fn answer(bytes: usize) -> Arc<StoredAnswer> {
        Arc::new(StoredAnswer {
            target: [0; 32],
            sent: None,
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Some(vec![0; bytes].into()),
            trailers: None,
        })
    }

    fn claim(store: &AnswersInMemory, number: u32) -> Option<u64> {
        match store.begin_now(&key(number), LEASE) {
            Begun::Claimed(claim) => Some(claim),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_ends_with_its_lease_and_is_then_worth_nothing() {
        let store = AnswersInMemory::default();
        let first = claim(&store, 1).unwrap();
        assert!(matches!(store.begin_now(&key(1), LEASE), Begun::Running));
        tokio::time::advance(LEASE).await;
        let second = claim(&store, 1).unwrap();
        store.keep_now(&key(1), first, answer(1), DAY);
        store.release(&key(1), first);
        assert!(matches!(store.begin_now(&key(1), LEASE), Begun::Running), "of the second");
        store.release(&key(1), second);
        assert!(claim(&store, 1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_for_their_time_and_not_longer() {
        let store = AnswersInMemory::default();
        store.keep_now(&key(1), claim(&store, 1).unwrap(), answer(100), DAY);
        tokio::time::advance(DAY - Duration::from_millis(1)).await;
        assert!(matches!(store.begin_now(&key(1), LEASE), Begun::Answered(_)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(claim(&store, 2).is_some());
        assert_eq!(store.stats(), AnswersStats { keys: 1, bytes: 0, evicted: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_bound_the_oldest_answer_goes_and_what_is_under_way_stays() {
        let store = AnswersInMemory::new(3 * SHARDS, SHARDS * 10_000);
        let running = claim(&store, 0).unwrap();
        for number in 1..10 {
            store.keep_now(&key(number), claim(&store, number).unwrap(), answer(10), DAY);
        }
        assert_eq!((store.stats().keys, store.stats().evicted), (3, 7));
        assert!(matches!(store.begin_now(&key(0), LEASE), Begun::Running));
        assert!(matches!(store.begin_now(&key(9), LEASE), Begun::Answered(_)));
        store.keep_now(&key(0), running, answer(9_000), DAY);
        assert!(store.stats().bytes <= 10_000);

        let full = AnswersInMemory::new(1, 1000);
        assert!(claim(&full, 1).is_some());
        assert!(matches!(full.begin_now(&key(2), LEASE), Begun::Full));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_too_large_is_kept_as_a_fact() {
        let store = AnswersInMemory::new(100, SHARDS * 1000);
        store.keep_now(&key(1), claim(&store, 1).unwrap(), answer(1000), DAY);
        match store.begin_now(&key(1), LEASE) {
            Begun::Answered(answer) => assert_eq!(answer.body, None::<Bytes>),
            other => panic!("{other:?}"),
        }
    }

    proptest::proptest! {
        #[test]
        fn keys_and_bytes_stay_within_their_bounds(
            steps in proptest::collection::vec((0u32..20, 0usize..3000, 0u64..40, 0u8..4), 0..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let store = AnswersInMemory::new(5 * SHARDS, SHARDS * 5000);
                let mut claims = HashMap::new();
                for (number, size, seconds, step) in steps {
                    match step {
                        0 | 1 => {
                            if let Some(claim) = claim(&store, number) {
                                claims.insert(number, claim);
                            }
                        }
                        2 => {
                            if let Some(claim) = claims.remove(&number) {
                                let span = Duration::from_secs(seconds);
                                store.keep_now(&key(number), claim, answer(size), span);
                            }
                        }
                        _ => tokio::time::advance(Duration::from_secs(seconds)).await,
                    }
                    let stats = store.stats();
                    assert!(stats.keys <= 5 && stats.bytes <= 5000, "{stats:?}");
                    let shard = store.shard(&key(0));
                    let answers = shard.entries.values().filter_map(|e| e.answer.as_ref());
                    assert_eq!(shard.bytes, answers.map(|answer| answer.size()).sum::<usize>());
                    assert!(shard.order.len() <= 11);
                }
            });
        }
    }
}
