//! A limit that follows latency.
//!
//! ```text
//! gradient = 1.5 · unloaded latency / latency of this window, at most 1, at least 0.5
//! limit    = limit + 0.2 · √limit               if the gradient is 1
//!            limit - 0.2 · limit · (1-gradient)  else
//! ```
//!
//! The gradient, its tolerance and its smoothing are those of Netflix's `Gradient2`; the square root as what may queue is
//! Envoy's headroom. What differs is how the unloaded latency is known, since that is where both go wrong:
//!
//! - Netflix averages all latencies over a long time. Under lasting overload the average becomes the loaded latency, and
//!   the limit climbs for ever.
//! - Envoy measures at a limit of 3 from time to time, and refuses nearly everything meanwhile.
//!
//! Here a *probe* lowers the limit by 30 %. Where calls queue at the service, their latency falls along (Little's law: latency is
//! calls at once over throughput, and the throughput stays). So the probe goes on down until the latency stops to fall, takes
//! that for the unloaded one, and returns to the step above. It goes no further than two steps below where the queue ends, and ends
//! after one step where there is none; noise may add some. There is a probe at the first load, every 30 s under load, and when the
//! limit fell by 30 %: then either there is a queue, or the service has become slower by itself, which the probe tells apart.
//!
//! Between probes the unloaded latency only falls, unless the limit is not in use. What is in use and slower is
//! learnt as normal only by a probe.

use std::time::Duration;

use super::window::{Bounds, Window};

#[derive(Debug)]
pub(super) struct Gradient {
    pub(super) limit: f64,
    bounds: Bounds,
    /// Binary logarithm of the unloaded latency, once there was a window.
    unloaded: Option<f64>,
    /// The limit from which it has been falling.
    top: f64,
    probe: Option<Probe>,
    probe_at: Duration,
    chance: u64,
}

/// The step before the one that is being tried.
#[derive(Clone, Copy, Debug)]
struct Probe {
    limit: f64,
    log_latency: f64,
    /// Whether one window after the step was no use already.
    again: bool,
}

impl Gradient {
    /// Calls after which a window may end, as in Envoy: fewer say little about services with slow and fast calls.
    pub(super) const CALLS: u64 = 50;

    /// How much slower than unloaded is no queue. Netflix's; 1 would refuse calls for noise.
    const TOLERANCE: f64 = 1.5;
    const SMOOTHING: f64 = 0.2;
    /// Weight of one window in the unloaded latency.
    const WEIGHT: f64 = 0.1;
    const STEP: f64 = 0.7;
    /// The shortest time between probes; up to 15 % are added by chance, so that processes do not probe together.
    const PROBE_EVERY: Duration = Duration::from_secs(30);

    pub(super) const fn new(limit: f64, bounds: Bounds, seed: u64) -> Self {
        Self {
            limit,
            bounds,
            unloaded: None,
            top: limit,
            probe: None,
            probe_at: Duration::ZERO,
            chance: seed,
        }
    }

    pub(super) fn learn(&mut self, window: &Window) {
        if window.is_overloaded() {
            self.probe = None;
            self.limit = self.bounds.backed_off(self.limit);
            return;
        }
        if window.served == 0 || window.is_doubtful() {
            return;
        }
        match self.probe.take() {
            Some(step) => self.go_on_probing(step, window),
            None => self.follow(window),
        }
    }

    fn follow(&mut self, window: &Window) {
        let unloaded = self.unloaded.get_or_insert(window.log_latency);
        let used = window.used(self.limit);
        if !used || window.log_latency < *unloaded {
            *unloaded += (window.log_latency - *unloaded) * Self::WEIGHT;
        }
        if !used {
            self.top = self.limit;
            return;
        }
        let gradient = (Self::TOLERANCE * (*unloaded - window.log_latency).exp2()).clamp(0.5, 1.0);
        let change = if gradient < 1.0 { self.limit * (gradient - 1.0) } else { self.limit.sqrt() };
        self.limit = self.bounds.clamp(self.limit + change * Self::SMOOTHING);
        self.top = if gradient < 1.0 { self.top } else { self.limit };
        if window.now >= self.probe_at || self.limit <= self.top * Self::STEP {
            self.step_down(window);
        }
    }

    fn step_down(&mut self, window: &Window) {
        let lower = self.bounds.clamp((self.limit * Self::STEP).floor());
        if lower < self.limit.floor() {
            self.probe =
                Some(Probe { limit: self.limit, log_latency: window.log_latency, again: false });
            self.limit = lower;
        } else {
            self.end_probe(window.log_latency, window.now);
        }
    }

    fn go_on_probing(&mut self, step: Probe, window: &Window) {
        if !window.used(self.limit) {
            // The load is gone; nothing can be compared.
            self.limit = step.limit;
            self.top = self.limit;
            return;
        }
        let queue_would = (step.limit.floor() / self.limit.floor()).log2();
        let rose = window.log_latency - step.log_latency;
        if rose > queue_would * 2.0 && !step.again {
            // Either slow calls are left of the step before, or the queue was still growing then. The next window tells.
            self.probe = Some(Probe { again: true, ..step });
        } else if rose < queue_would / -2.0 || rose > queue_would * 2.0 {
            // Half of what a queue would make of it, so that noise on either side is told right.
            self.step_down(window);
        } else {
            self.limit = step.limit;
            self.end_probe(window.log_latency.min(step.log_latency), window.now);
        }
    }

    fn end_probe(&mut self, unloaded: f64, now: Duration) {
        self.unloaded = Some(unloaded);
        self.top = self.limit;
        // A linear congruential generator (Knuth, MMIX); its high bits are the good ones.
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let jitter = 0.15 * f64::from((self.chance >> 32) as u32) / f64::from(u32::MAX);
        self.probe_at = now + Self::PROBE_EVERY.mul_f64(1.0 + jitter);
    }
}
