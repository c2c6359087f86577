//! Faults that are switched on and off while the shop is open, by hand, over HTTP, or by a schedule that a seed makes.
//!
//! A [`Fault`] is a name; what it does is in the place that it is about: [`Broken`](broken) stands before the registry, [`Lossy`](lossy) before the
//! engine of the broker, a layer before payments. What happens to whole instances is done by [`Shop::obey`](crate::Shop::obey), which also [tells](told) those that are
//! processes what is on. Servers that are not part of a shop are the business of who started them, as [`Servers`]: see [`Chaos::offer`].

mod broken;
mod fault;
mod lossy;
mod payment;
mod schedule;
mod servers;
mod switches;
pub(crate) mod told;

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

pub(crate) use broken::Broken;
pub(crate) use fault::Hurt;
pub use fault::{Fault, Faults};
pub(crate) use lossy::Lossy;
pub(crate) use payment::{SLOWER, hurt_payments};
pub use schedule::{Moment, Schedule};
pub use servers::{Server, Servers};
use tokio::{sync::watch, time::Instant};

use crate::api::lock;

/// How many switchings are remembered; the oldest make room.
const REMEMBERED: usize = 1_000;

/// The switches of one shop. Clones are one; at first everything is off.
#[derive(Clone, Default)]
pub struct Chaos {
    shared: Arc<Shared>,
}

struct Shared {
    on: watch::Sender<Faults>,
    /// Beyond those of the shop itself: those that somebody brings about.
    offered: Mutex<Faults>,
    /// Those of the shop itself that are out of its reach.
    withheld: Mutex<Faults>,
    began: Instant,
    happened: Mutex<VecDeque<Moment>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            on: watch::Sender::default(),
            offered: Mutex::default(),
            withheld: Mutex::default(),
            began: Instant::now(),
            happened: Mutex::default(),
        }
    }
}

/// The shop does not run on what the fault is about, or nobody here can break that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHere(pub Fault);

impl Chaos {
    /// Switches a fault on or off; whether that changed anything.
    ///
    /// # Errors
    ///
    /// [`NotHere`] if nobody brings it about.
    pub fn set(&self, fault: Fault, on: bool) -> Result<bool, NotHere> {
        if !self.is_offered(fault) {
            return Err(NotHere(fault));
        }
        Ok(self.switch(fault, on))
    }

    /// Switches everything off.
    pub fn calm(&self) {
        for fault in self.on().iter() {
            self.switch(fault, false);
        }
    }

    fn switch(&self, fault: Fault, on: bool) -> bool {
        self.shared.on.send_if_modified(|faults| {
            let changed = faults.set(fault, on);
            if changed {
                // Within the lock of the switches, so that the story is in their order.
                let mut happened = lock(&self.shared.happened);
                if happened.len() == REMEMBERED {
                    happened.pop_front();
                }
                happened.push_back(Moment { after: self.shared.began.elapsed(), fault, on });
            }
            changed
        })
    }

    /// Whether a fault is on.
    #[must_use]
    pub fn is_on(&self, fault: Fault) -> bool {
        self.shared.on.borrow().has(fault)
    }

    /// All that are on.
    #[must_use]
    pub fn on(&self) -> Faults {
        *self.shared.on.borrow()
    }

    /// Follows the switches.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Faults> {
        self.shared.on.subscribe()
    }

    /// Returns when a fault is off.
    pub async fn is_over(&self, fault: Fault) {
        // The sender is in our hands, so this ends when it is switched off.
        let _ = self.watch().wait_for(|on| !on.has(fault)).await;
    }

    /// Whether somebody brings this fault about.
    #[must_use]
    pub fn is_offered(&self, fault: Fault) -> bool {
        if fault.is_of_a_server() {
            return lock(&self.shared.offered).has(fault);
        }
        !lock(&self.shared.withheld).has(fault)
    }

    /// From now on nobody brings this fault about.
    pub(crate) fn withhold(&self, fault: Fault) {
        lock(&self.shared.withheld).set(fault, true);
    }

    /// Has on what is on elsewhere, and nothing else.
    pub(crate) fn match_with(&self, faults: Faults) {
        for fault in Fault::all() {
            self.switch(fault, faults.has(fault));
        }
    }

    /// From now on the caller brings this fault about, and follows [`watch`](Self::watch) for that: who has started the Redis or the PostgreSQL of
    /// this shop.
    pub fn offer(&self, fault: Fault) {
        lock(&self.shared.offered).set(fault, true);
    }

    /// What was switched and when, since these switches were made: the latest thousand.
    #[must_use]
    pub fn happened(&self) -> Vec<Moment> {
        lock(&self.shared.happened).iter().copied().collect()
    }

    /// Switches what the schedule says at its times, counted from now, and everything off at its end.
    ///
    /// # Cancellation
    ///
    /// Dropped, it leaves on what is on.
    pub async fn follow(&self, schedule: &Schedule) {
        let began = Instant::now();
        for &Moment { after, fault, on } in schedule.moments() {
            tokio::time::sleep_until(began + after).await;
            // What nobody brings about is passed over.
            let _ = self.set(fault, on);
        }
        tokio::time::sleep_until(began + schedule.span()).await;
        self.calm();
    }

    /// How long this shop has had its switches.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.shared.began.elapsed()
    }
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos").field("on", &self.on()).finish_non_exhaustive()
    }
}

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is nothing here for {} to break", self.0)
    }
}

impl std::error::Error for NotHere {}

#[cfg(test)]
mod tests;
