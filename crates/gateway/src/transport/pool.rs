use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_call::Deadline;
use tokio::time::{Instant, sleep};

use super::{connection::Connection, line::Place, places::Permit};

/// What an instance says of the time that it keeps connections is taken with this less, for the way of a request.
const MARGIN: Duration = Duration::from_secs(1);

/// How often idle connections are looked through for those that have ended.
const SWEEP: Duration = Duration::from_secs(1);

/// Threads that have idle connections of their own. More than these share.
pub(super) const SHARDS: usize = 64;

/// The idle connections of a gateway to all its upstreams. Clones share them.
///
/// Each thread has its own, for a socket belongs to the runtime that opened it; a runtime of several threads loses a little by that, and runtimes of one
/// thread each never wait for one another. Of those that have ended while they were idle, a task per thread gets rid; it ends when there are no more.
#[derive(Clone)]
pub(crate) struct Pool {
    shards: Arc<[OnceLock<Shard>; SHARDS]>,
}

#[derive(Default)]
struct Shard(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    /// By the number of their instance, those that were used last at the back.
    connections: HashMap<u64, VecDeque<Resting>, BuildHasherDefault<Spread>>,
    swept: bool,
}

struct Resting {
    connection: Box<Connection>,
    until: Instant,
}

/// Where a connection goes back to.
pub(super) struct Home {
    pub(super) place: Arc<Place>,
    pub(super) reuse: bool,
    /// How long the instance says that it keeps idle connections.
    pub(super) keeps: Option<Duration>,
    /// The place of the call, which goes when the connection waits for another, or has ended.
    pub(super) permit: Option<Permit>,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self { shards: Arc::new([const { OnceLock::new() }; SHARDS]) }
    }

    /// An idle connection to the instance of this number, the one that was used last. For a request that could not be sent again the kernel is asked whether it is one still.
    pub(super) fn check_out(&self, number: u64, once: bool) -> Option<Box<Connection>> {
        let shard = self.shards[shard_of_thread()].get()?;
        let mut idle = shard.lock();
        let connections = idle.connections.get_mut(&number)?;
        let now = Deadline::now().instant();
        while let Some(mut resting) = connections.pop_back() {
            let silent = !once || resting.connection.is_silent();
            if now < resting.until && silent && resting.connection.is_quiet() {
                return Some(resting.connection);
            }
        }
        None
    }

    /// Closes an idle connection to the instance of this number, of whichever thread. Whether there was one.
    pub(super) fn evict(&self, number: u64) -> bool {
        self.shards.iter().filter_map(OnceLock::get).any(|shard| {
            let oldest = shard.lock().connections.get_mut(&number).and_then(VecDeque::pop_front);
            // Closed here, when nobody waits for the lock.
            oldest.is_some()
        })
    }

    #[cfg(test)]
    pub(super) fn has_quiet(&self, number: u64) -> bool {
        let Some(shard) = self.shards[shard_of_thread()].get() else { return false };
        let mut idle = shard.lock();
        let mut connections = idle.connections.get_mut(&number).into_iter().flatten();
        connections.any(|resting| resting.connection.is_quiet())
    }

    fn check_in(&self, place: &Place, connection: Box<Connection>, until: Instant) {
        let (number, most) = (place.number(), place.transport().connections.max_idle);
        let at = shard_of_thread();
        let mut idle = self.shards[at].get_or_init(Shard::default).lock();
        let connections = idle.connections.entry(number).or_default();
        if connections.len() >= most {
            connections.pop_front();
        }
        connections.push_back(Resting { connection, until });
        if !idle.swept {
            idle.swept = true;
            drop(idle);
            tokio::spawn(sweep(Arc::downgrade(&self.shards), at));
        }
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether connections are left.
    fn sweep(&self) -> bool {
        let mut idle = self.lock();
        let now = Instant::now();
        idle.connections.retain(|_, connections| {
            connections.retain_mut(|resting| now < resting.until && resting.connection.is_quiet());
            !connections.is_empty()
        });
        idle.swept = !idle.connections.is_empty();
        idle.swept
    }
}

async fn sweep(shards: Weak<[OnceLock<Shard>; SHARDS]>, at: usize) {
    let mut guard = Sweeping { shards, at, over: false };
    loop {
        sleep(SWEEP).await;
        let Some(shards) = guard.shards.upgrade() else { return };
        if !shards[at].get().is_some_and(Shard::sweep) {
            guard.over = true;
            return;
        }
    }
}

/// However the task ends, with its runtime as well, the next connection gets another.
struct Sweeping {
    shards: Weak<[OnceLock<Shard>; SHARDS]>,
    at: usize,
    over: bool,
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        let Some(shards) = self.shards.upgrade().filter(|_| !self.over) else { return };
        if let Some(shard) = shards[self.at].get() {
            shard.lock().swept = false;
        }
    }
}

impl Home {
    /// Keeps the connection for the next call, if that may have it.
    pub(super) fn check_in(self, mut connection: Box<Connection>) {
        connection.rest();
        match self.until(&connection) {
            Some(until) => self.place.pool().check_in(&self.place, connection, until),
            None => drop(connection),
        }
        drop(self.permit);
    }

    /// Until when the connection may wait.
    fn until(&self, connection: &Connection) -> Option<Instant> {
        let (kept, now) = (&self.place.transport().connections, Deadline::now().instant());
        let spent = !self.reuse
            || kept.max_idle == 0
            || connection.calls >= kept.max_requests
            || now - connection.made > kept.max_age;
        // An instance that says more than it was asked is not to be trusted with another question.
        if spent || !connection.read.is_empty() {
            return None;
        }
        let of_instance = self.keeps.map(|keeps| keeps.saturating_sub(MARGIN));
        let span = of_instance.map_or(kept.idle, |keeps| keeps.min(kept.idle));
        if span.is_zero() {
            return None;
        }
        // A span too long for the clock is what `Deadline` makes of it.
        Some(now.checked_add(span).unwrap_or_else(|| Deadline::after(span).instant()))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// A number for an instance that no other has.
pub(super) fn number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    NUMBERS.fetch_add(1, Relaxed)
}

/// The shard of this thread. Threads that have ended leave theirs to others, who find its connections closed with their runtime.
pub(super) fn shard_of_thread() -> usize {
    struct Seat(usize);
    impl Drop for Seat {
        fn drop(&mut self) {
            seats().free.push(self.0);
        }
    }
    thread_local! {
        static SEAT: Seat = Seat(seats().take());
    }
    // While a thread ends, its connections may still come back.
    SEAT.try_with(|seat| seat.0).unwrap_or(0)
}

struct Seats {
    free: Vec<usize>,
    taken: usize,
}

impl Seats {
    fn take(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.taken += 1;
            (self.taken - 1) % SHARDS
        })
    }
}

fn seats() -> MutexGuard<'static, Seats> {
    static SEATS: Mutex<Seats> = Mutex::new(Seats { free: Vec::new(), taken: 0 });
    SEATS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hashes the numbers of instances, which nobody outside can choose.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing (Knuth, The Art of Computer Programming, 6.4).
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
