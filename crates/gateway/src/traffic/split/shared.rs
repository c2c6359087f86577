use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use gusset_call::Clock;
use gusset_registry::hash_key;

use super::{
    super::{
        rollout::{Course, RolloutState},
        sample::{Sample, Tally},
        sticky::SplitKey,
    },
    SplitError,
};
use crate::Upstream;

/// What all clones of a split have in common.
pub(super) struct Shared {
    pub(super) variants: Vec<Member>,
    pub(super) weights: ArcSwap<Weights>,
    pub(super) clock: Clock,
    /// Whether there is a rollout to look after.
    pub(super) rolling: AtomicBool,
    /// When somebody looks at the rollout next, in nanoseconds of the clock.
    pub(super) next_look: AtomicU64,
    pub(super) rollout: Mutex<Option<Rolling>>,
}

pub(super) struct Member {
    pub(super) name: Arc<str>,
    pub(super) upstream: Upstream,
    /// Of its name, so that the same keys go to it in every process.
    pub(super) hash: u64,
    pub(super) tally: Tally,
}

#[derive(Debug)]
pub(super) struct Weights {
    pub(super) parts: Box<[u64]>,
    pub(super) before: Option<Box<[u64]>>,
}

pub(super) struct Rolling {
    pub(super) variant: usize,
    pub(super) course: Course,
    /// The weights without the variant.
    pub(super) others: Box<[u64]>,
    /// Counts when the step began, and when the rollout did.
    pub(super) step_began: Sample,
    pub(super) began: Sample,
}

impl Shared {
    /// How often a rollout is looked at, at most.
    const LOOK: Duration = Duration::from_millis(100);

    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Rolling>> {
        self.rollout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn place(&self, name: &str) -> Result<usize, SplitError> {
        let place = self.variants.iter().position(|variant| &*variant.name == name);
        place.ok_or_else(|| {
            let known: Vec<_> = self.variants.iter().map(|v| format!("{:?}", v.name)).collect();
            SplitError::Unknown { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Under the lock of the rollout, so that changes come one after the other.
    pub(super) fn set(&self, parts: Box<[u64]>, by_hand: bool) {
        let present = self.weights.load();
        let before = if by_hand { Some(present.parts.clone()) } else { present.before.clone() };
        self.weights.store(Arc::new(Weights { parts, before }));
    }

    pub(super) fn chosen(&self, parts: &[u64], key: Option<SplitKey>) -> usize {
        match key {
            Some(SplitKey(key)) => self.by_key(parts, key),
            None => by_chance(parts, rand::random()),
        }
    }

    /// Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005): the least of -ln(hash) / weight.
    fn by_key(&self, parts: &[u64], key: u64) -> usize {
        let (mut best, mut least) = (0, f64::INFINITY);
        for (at, (member, part)) in self.variants.iter().zip(parts).enumerate() {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&key.to_le_bytes());
            bytes[8..].copy_from_slice(&member.hash.to_le_bytes());
            // 53 bits are what a number between 0 and 1 has.
            let unit = ((hash_key(bytes) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            let score = -unit.ln() / *part as f64;
            if *part > 0 && score < least {
                (best, least) = (at, score);
            }
        }
        best
    }

    pub(super) fn of_others(&self, variant: usize) -> Sample {
        let others = self.variants.iter().enumerate().filter(|(at, _)| *at != variant);
        others.fold(Sample::empty(), |sum, (_, member)| sum.add(&member.tally.read()))
    }

    /// Looks at the rollout if it is time, unless somebody does so already.
    pub(super) fn look(&self) {
        let now = self.clock.now();
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        if nanos < self.next_look.load(Relaxed) {
            return;
        }
        let mut rollout = match self.rollout.try_lock() {
            Ok(rollout) => rollout,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let Some(rolling) = &mut *rollout else { return };
        let pause = u64::try_from(Self::LOOK.as_nanos()).unwrap_or(u64::MAX);
        self.next_look.store(nanos.saturating_add(pause), Relaxed);
        let tally = &self.variants[rolling.variant].tally;
        let present = tally.read();
        let own = present.clone().since(&rolling.step_began);
        let others = self.of_others(rolling.variant).since(&rolling.began);
        if !rolling.course.look(now, &own, &others) {
            return;
        }
        rolling.step_began = present;
        let name = &*self.variants[rolling.variant].name;
        let percent = rolling.course.percent();
        match rolling.course.state() {
            RolloutState::Running => tracing::info!(variant = name, percent, "rollout goes on"),
            RolloutState::Done => tracing::info!(variant = name, percent, "rollout is done"),
            RolloutState::Aborted(reason) => {
                tracing::warn!(variant = name, %reason, "rollout is aborted");
            }
        }
        if rolling.course.state() != RolloutState::Running {
            self.rolling.store(false, Relaxed);
        }
        self.set(rolling.parts(), false);
    }
}

impl Rolling {
    pub(super) fn parts(&self) -> Box<[u64]> {
        let percent = u64::from(self.course.percent());
        let sum: u64 = self.others.iter().sum();
        let mut parts: Box<[u64]> = self.others.iter().map(|part| part * (100 - percent)).collect();
        parts[self.variant] = sum * percent;
        simplest(parts)
    }
}

/// The same parts in the smallest numbers.
fn simplest(mut parts: Box<[u64]>) -> Box<[u64]> {
    let divisor = parts.iter().fold(0, |mut a, &part| {
        let mut b = part;
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    });
    // As large as a weight at most, so that none grows without end by rollouts one after the other.
    let largest = parts.iter().max().map_or(0, |part| part / divisor.max(1));
    let scale = largest / u64::from(u32::MAX) + 1;
    for part in parts.iter_mut().filter(|part| **part > 0) {
        *part = (*part / divisor.max(1) / scale).max(1);
    }
    parts
}

/// `random` is one of all numbers.
pub(super) fn by_chance(parts: &[u64], random: u64) -> usize {
    let sum: u128 = parts.iter().map(|part| u128::from(*part)).sum();
    let mut point = (u128::from(random) * sum) >> 64;
    for (at, part) in parts.iter().enumerate() {
        let part = u128::from(*part);
        if point < part {
            return at;
        }
        point -= part;
    }
    0
}
