//! Which instances take calls at all, and which part of them.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use gusset_call::Ratio;

use crate::{
    Health, Instance,
    balance::hash::{hash_key, mix},
};

/// Which instances of a service take calls, and which part of them. By default all that are healthy, and all alike.
///
/// It is applied when something changed, not in each call. The steps, in this order:
///
/// 1. [`within`](Self::within) says who is of the fleet at all, and [`only`](Self::only) or [`prefer`](Self::prefer) take those of a tag, a version or other metadata.
/// 2. Of these the healthy ones which are not [ejected](crate::Ejection) are available;
///    [`panic_below`](Self::panic_below) adds the others while too few are.
/// 3. [`subset`](Self::subset) takes some of them.
/// 4. [`slow_start`](Self::slow_start) gives newcomers less.
/// 5. [`zone`](Self::zone) gives those in the zone all, while there are enough of them.
///
/// Draining instances take no calls, in panic neither.
///
/// ```
/// use std::time::Duration;
/// use gusset_registry::Fleet;
///
/// let canary = Fleet::new()
///     .only(|instance| instance.tags.contains("canary"))
///     .zone("eu-1")
///     .slow_start(Duration::from_secs(30));
/// ```
#[derive(Clone, Default)]
pub struct Fleet {
    /// Who is of the fleet at all.
    within: Option<Rule>,
    rule: Option<Rule>,
    /// What to do where the rule leaves nobody.
    or_all: bool,
    zone: Option<Zone>,
    subset: Option<(NonZeroUsize, u64)>,
    pub(crate) slow_start: Option<Duration>,
    panic_below: Option<Ratio>,
}

type Rule = Arc<dyn Fn(&Instance) -> bool + Send + Sync>;

#[derive(Clone, Debug)]
struct Zone {
    name: String,
    /// The share of healthy ones below which calls spill over.
    enough: Ratio,
}

impl Fleet {
    /// How long a newcomer usually takes to be as quick as the others, for [`slow_start`](Self::slow_start): 30 s.
    pub const SLOW_START: Duration = Duration::from_secs(30);

    /// All healthy instances alike.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nobody else is of the fleet: all that follows, the share of those that are available as well, is about these. For services of which several are made, such as
    /// the two sides of a switch.
    #[must_use]
    pub fn within(mut self, rule: impl Fn(&Instance) -> bool + Send + Sync + 'static) -> Self {
        self.within = Some(Arc::new(rule));
        self
    }

    /// Those instances only of which `rule` says yes. Where there is none, calls are refused.
    #[must_use]
    pub fn only(mut self, rule: impl Fn(&Instance) -> bool + Send + Sync + 'static) -> Self {
        self.rule = Some(Arc::new(rule));
        self.or_all = false;
        self
    }

    /// Those instances of which `rule` says yes. Where none of them is available, all.
    #[must_use]
    pub fn prefer(mut self, rule: impl Fn(&Instance) -> bool + Send + Sync + 'static) -> Self {
        self.rule = Some(Arc::new(rule));
        self.or_all = true;
        self
    }

    /// The instances of this zone take all calls while at least 70 % of them are available (Envoy's overprovisioning
    /// of 1.4); with fewer, the part that is missing goes to the others: with 35 % available, half of the calls.
    ///
    /// A call that has been tried at all instances of the zone may go to another zone as well.
    #[must_use]
    pub fn zone(self, name: impl Into<String>) -> Self {
        self.zone_with(name, Ratio::percent(70))
    }

    /// As [`zone`](Self::zone), with another share of available instances that is enough for all calls.
    #[must_use]
    pub fn zone_with(mut self, name: impl Into<String>, enough: Ratio) -> Self {
        self.zone = Some(Zone { name: name.into(), enough });
        self
    }

    /// `size` of the available instances, chosen by `client`: the name of this process, unique among the clients of the
    /// service. For fleets so large that not every client should hold a connection to every instance.
    ///
    /// The choice is the same at each start; clients spread evenly over the instances; an instance that comes
    /// or goes changes at most one place (rendezvous hashing, as in gRPC's proposal A68).
    #[must_use]
    pub fn subset(mut self, size: NonZeroUsize, client: impl AsRef<[u8]>) -> Self {
        self.subset = Some((size, hash_key(client)));
        self
    }

    /// A newcomer begins with 10 % of its share and has all of it after `window`, in a straight line, so that cold caches and
    /// compilers do not get the full load. Off by default; [`SLOW_START`](Self::SLOW_START) is usual.
    ///
    /// Whoever was there when the balancer was made is no newcomer. Who was unhealthy or ejected is one when it comes back.
    /// The share rises in 20 steps.
    #[must_use]
    pub const fn slow_start(mut self, window: Duration) -> Self {
        self.slow_start = Some(window);
        self
    }

    /// While a smaller part than this of the instances is available, all take calls that are not draining: rather an answer
    /// from some than the whole load on a few. Off by default, for a registry protects itself from a loss of heartbeats; 50 % is usual.
    #[must_use]
    pub const fn panic_below(mut self, share: Ratio) -> Self {
        self.panic_below = Some(share);
        self
    }

    /// The plan for these instances.
    pub(crate) fn plan(&self, standings: &[Standing<'_>]) -> Plan {
        let says = |rule: &Option<Rule>, s: &Standing<'_>| {
            rule.as_ref().is_none_or(|rule| rule(s.instance))
        };
        let is_within = |s: &Standing<'_>| says(&self.within, s);
        let mut chosen: Vec<bool> =
            standings.iter().map(|s| is_within(s) && says(&self.rule, s)).collect();
        let anyone = |chosen: &[bool]| {
            standings.iter().zip(chosen).any(|(s, chosen)| *chosen && s.is_available())
        };
        if self.or_all && !anyone(&chosen) {
            chosen = standings.iter().map(is_within).collect();
        }
        let pool: Vec<usize> = (0..standings.len())
            .filter(|&index| chosen[index] && standings[index].is_in_service())
            .collect();
        let mut open: Vec<usize> =
            pool.iter().copied().filter(|&index| standings[index].is_available()).collect();
        let (available, all) = (open.len() as u64, pool.len().max(1) as u64);
        let panicking = self.panic_below.is_some_and(|share| !share.is_reached(available, all));
        if panicking {
            open.clone_from(&pool);
        }
        self.take_subset(standings, &mut open);
        let share = |weighted: bool| {
            let base = |index: usize| {
                let weight =
                    if weighted { f64::from(standings[index].instance.weight.get()) } else { 1.0 };
                weight * standings[index].warmth
            };
            let mut shares: Vec<f64> = open.iter().map(|&index| base(index)).collect();
            if !panicking {
                self.favour_zone(standings, &pool, &open, &mut shares);
            }
            shares
        };
        let (even, weighted) = (share(false), share(true));
        Plan { open, even, weighted, panicking }
    }

    fn take_subset(&self, standings: &[Standing<'_>], open: &mut Vec<usize>) {
        let Some((size, client)) = self.subset else { return };
        if open.len() <= size.get() {
            return;
        }
        let score =
            |&index: &usize| mix(client ^ hash_key(standings[index].instance.id.as_bytes()));
        open.sort_by_cached_key(score);
        open.truncate(size.get());
        open.sort_unstable();
    }

    fn favour_zone(
        &self,
        standings: &[Standing<'_>],
        pool: &[usize],
        open: &[usize],
        shares: &mut [f64],
    ) {
        let Some(Zone { name, enough }) = &self.zone else { return };
        let is_here = |index: &usize| standings[*index].instance.zone.as_ref() == Some(name);
        let available = |index: &&usize| is_here(index) && standings[**index].is_available();
        let (all, up) =
            (pool.iter().filter(|i| is_here(i)).count(), pool.iter().filter(available).count());
        let sum = |here: bool| -> f64 {
            let of = open.iter().zip(&*shares).filter(|(index, _)| is_here(index) == here);
            of.map(|(_, share)| share).sum()
        };
        let (here, elsewhere) = (sum(true), sum(false));
        if here == 0.0 || elsewhere == 0.0 {
            return;
        }
        let stays = if enough.is_reached(up as u64, all as u64) {
            1.0
        } else {
            up as f64 / (all as f64 * f64::from(*enough))
        };
        for (index, share) in open.iter().zip(shares) {
            let part = if is_here(index) { (stays, here) } else { (1.0 - stays, elsewhere) };
            // Where all stay, whole numbers remain whole.
            *share = match part {
                (0.0, _) => 0.0,
                (1.0, _) => *share,
                (part, sum) => *share * part / sum,
            };
        }
    }
}

/// What a plan looks at.
#[derive(Debug)]
pub(crate) struct Standing<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) ejected: bool,
    /// From a tenth, for a newcomer, to 1.
    pub(crate) warmth: f64,
}

impl Standing<'_> {
    fn is_available(&self) -> bool {
        self.instance.health == Health::Healthy && !self.ejected
    }

    /// Not about to leave, and heard of at least once.
    const fn is_in_service(&self) -> bool {
        matches!(self.instance.health, Health::Healthy | Health::Unhealthy)
    }
}

/// Who takes calls: indices, and for each two shares, without and with the weights of the instances.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) open: Vec<usize>,
    pub(crate) even: Vec<f64>,
    pub(crate) weighted: Vec<f64>,
    pub(crate) panicking: bool,
}

/// The share of a newcomer of this age, and when it next changes; `None` if it is none any more.
pub(crate) fn warmth(age: Duration, window: Duration) -> Option<(f64, Duration)> {
    const STEPS: u32 = 20;
    if age >= window {
        return None;
    }
    let step = (window / STEPS).max(Duration::from_millis(1));
    let steps = age.as_nanos() / step.as_nanos();
    let at = step * u32::try_from(steps).unwrap_or(STEPS);
    Some(((at.as_secs_f64() / window.as_secs_f64()).clamp(0.1, 1.0), at + step))
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("is_part", &self.within.is_some())
            .field("has_rule", &self.rule.is_some())
            .field("zone", &self.zone)
            .field("subset", &self.subset)
            .field("slow_start", &self.slow_start)
            .field("panic_below", &self.panic_below)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
