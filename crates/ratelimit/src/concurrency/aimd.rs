use super::window::{Bounds, Window};

/// Additive increase, multiplicative decrease: after a window with overload 0.9 of the limit, after one without, one more, if
/// half of the limit was in use.
///
/// Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in Computer Networks" (1989); the
/// ratio and the rule about use as in Netflix's `concurrency-limits`.
#[derive(Debug)]
pub(super) struct Aimd {
    pub(super) limit: f64,
    pub(super) bounds: Bounds,
}

impl Aimd {
    /// Calls after which a window may end.
    pub(super) const CALLS: u64 = 10;

    pub(super) fn learn(&mut self, window: &Window) {
        if window.is_overloaded() {
            self.limit = self.bounds.backed_off(self.limit);
        } else if !window.is_doubtful() && window.used(self.limit) {
            self.limit = self.bounds.clamp(self.limit + 1.0);
        }
    }
}
