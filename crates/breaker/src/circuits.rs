use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gusset_call::Clock;

use crate::{Circuit, Event, Policy, State, event::Listener};

/// One circuit per key, for instance per endpoint, at most a stated number. Clones share the circuits.
///
/// ```
/// use std::num::NonZeroUsize;
/// use gusset_breaker::{Circuits, Policy};
///
/// let endpoints = Circuits::new(Policy::consecutive(5), NonZeroUsize::new(1_000).unwrap());
/// endpoints.get("10.0.0.7:80").force_open();
/// assert!(!endpoints.get("10.0.0.7:80").is_eligible());
/// assert!(endpoints.get("10.0.0.8:80").is_eligible());
/// ```
///
/// # Memory
///
/// At the bound, a new key takes the place of another: of a handful that it looks at, first one whose circuit is closed and without
/// failures, or that nobody asked for in the last 10 minutes. That loses nothing but its statistics, as long as nobody holds
/// the circuit. If there is none, a circuit that remembers something makes room, and [`Circuits::evictions`] counts it: a
/// closed one rather than an open one, one that nobody holds rather than one that is held, and one with an operator's order last.
/// Whoever still holds a circuit that made room goes on using it, and shares it no longer.
pub struct Circuits<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    policy: Policy,
    listener: Option<Arc<Listener>>,
    capacity: NonZeroUsize,
    clock: Clock,
    table: Mutex<Table<K>>,
}

struct Table<K> {
    places: HashMap<K, usize>,
    slots: Vec<Slot<K>>,
    hand: usize,
    evictions: u64,
}

struct Slot<K> {
    key: K,
    circuit: Circuit,
    /// The nanosecond at which it was last asked for.
    used: u64,
}

impl<K: Hash + Eq + Clone + fmt::Display> Circuits<K> {
    /// At most `capacity` circuits, all with `policy`.
    #[must_use]
    pub fn new(policy: Policy, capacity: NonZeroUsize) -> Self {
        Self::build(policy, capacity, None)
    }

    /// At most `capacity` circuits, all with `policy`, that all tell `listener` what happens to them.
    #[must_use]
    pub fn with_listener(
        policy: Policy,
        capacity: NonZeroUsize,
        listener: impl Fn(&str, &Event<'_>) + Send + Sync + 'static,
    ) -> Self {
        Self::build(policy, capacity, Some(Arc::new(listener)))
    }

    fn build(policy: Policy, capacity: NonZeroUsize, listener: Option<Arc<Listener>>) -> Self {
        let table = Table { places: HashMap::new(), slots: Vec::new(), hand: 0, evictions: 0 };
        let (table, clock) = (Mutex::new(table), Clock::new());
        Self { shared: Arc::new(Shared { policy, listener, capacity, clock, table }) }
    }

    /// The circuit of `key`, a new one if need be. It is named like the key. One short lock, O(1); keep the circuit
    /// where a key is used again and again.
    #[must_use]
    pub fn get(&self, key: K) -> Circuit {
        let now = self.shared.clock.nanos();
        if let Some(circuit) = self.lock().find(&key, now) {
            return circuit;
        }
        // Made without the lock, for the text of the key is user code.
        let listener = self.shared.listener.clone();
        let circuit = Circuit::build(key.to_string().into(), self.shared.policy, listener);
        let slot = Slot { key: key.clone(), circuit: circuit.clone(), used: now };
        let (found, _forgotten) = {
            let mut table = self.lock();
            match table.find(&key, now) {
                // Someone else was faster.
                Some(circuit) => (circuit, Some(slot)),
                None => (circuit, table.insert(key, slot, self.shared.capacity.get())),
            }
        };
        found
    }

    /// The circuit of `key`, if there is one; for pages and orders, where a wrong name must not make a new one.
    #[must_use]
    pub fn find(&self, key: &K) -> Option<Circuit> {
        self.lock().find(key, self.shared.clock.nanos())
    }

    /// Forgets the circuit of `key`, for instance when its endpoint is gone. Whoever holds it goes on using it.
    pub fn remove(&self, key: &K) -> Option<Circuit> {
        let slot = self.lock().remove(key)?;
        Some(slot.circuit)
    }

    /// All circuits there are, in no order: for a page that shows them, or an order to all. O(n) under the lock.
    #[must_use]
    pub fn all(&self) -> Vec<Circuit> {
        self.lock().slots.iter().map(|slot| slot.circuit.clone()).collect()
    }

    /// How many circuits there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().slots.len()
    }

    /// Whether there are none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many circuits that remembered something had to make room.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.lock().evictions
    }
}

impl<K> Circuits<K> {
    fn lock(&self) -> MutexGuard<'_, Table<K>> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Table<K> {
    /// How many slots the hand looks at for the one that is missed least.
    const TRIES: usize = 8;

    fn find(&mut self, key: &K, now: u64) -> Option<Circuit> {
        let slot = &mut self.slots[*self.places.get(key)?];
        slot.used = now;
        Some(slot.circuit.clone())
    }

    /// Gives what had to make room.
    fn insert(&mut self, key: K, slot: Slot<K>, capacity: usize) -> Option<Slot<K>> {
        if self.slots.len() < capacity {
            self.places.insert(key, self.slots.len());
            self.slots.push(slot);
            return None;
        }
        let place = self.victim(slot.used);
        let forgotten = std::mem::replace(&mut self.slots[place], slot);
        self.places.remove(&forgotten.key);
        self.places.insert(key, place);
        Some(forgotten)
    }

    fn remove(&mut self, key: &K) -> Option<Slot<K>> {
        let place = self.places.remove(key)?;
        let slot = self.slots.swap_remove(place);
        if let Some(moved) = self.slots.get(place) {
            if let Some(its_place) = self.places.get_mut(&moved.key) {
                *its_place = place;
            }
        }
        Some(slot)
    }

    fn victim(&mut self, now: u64) -> usize {
        let slots = self.slots.len();
        let tries = (0..Self::TRIES.min(slots)).map(|step| (self.hand + step) % slots);
        let least = tries.map(|place| (self.slots[place].loss(now), place)).min_by_key(|it| it.0);
        let (loss, place) = least.unwrap_or((Loss::None, 0));
        self.hand = (place + 1) % slots;
        self.evictions += u64::from(loss != Loss::None);
        place
    }
}

/// What is lost with a circuit, from little to much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    None,
    Closed,
    Open,
    Held,
    Order,
}

impl<K> Slot<K> {
    /// In nanoseconds.
    const IDLE: u64 = 600 * 1_000_000_000;

    fn loss(&self, now: u64) -> Loss {
        let circuit = &self.circuit;
        if circuit.has_order() {
            return Loss::Order;
        }
        if circuit.is_held() {
            return Loss::Held;
        }
        if circuit.is_pristine() || now.saturating_sub(self.used) >= Self::IDLE {
            return Loss::None;
        }
        if circuit.state() == State::Closed { Loss::Closed } else { Loss::Open }
    }
}

impl<K> Clone for Circuits<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K> fmt::Debug for Circuits<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuits").field("capacity", &self.shared.capacity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuits(capacity: usize) -> Circuits<u32> {
        Circuits::new(Policy::consecutive(1), NonZeroUsize::new(capacity).unwrap())
    }

    #[test]
    fn a_key_finds_its_circuit_again() {
        let circuits = circuits(2);
        circuits.get(1).try_acquire().unwrap().failure();
        assert_eq!(circuits.get(1).state(), State::Open);
        assert_eq!(circuits.get(2).state(), State::Closed);
        assert_eq!(circuits.get(1).name(), "1");
    }

    #[test]
    fn a_flood_of_keys_neither_grows_the_table_nor_closes_an_open_circuit() {
        let circuits = circuits(100);
        circuits.get(7).try_acquire().unwrap().failure();
        for key in 1_000..11_000 {
            let _ = circuits.get(key);
        }
        assert_eq!(circuits.len(), 100);
        assert_eq!(circuits.get(7).state(), State::Open);
        assert_eq!(circuits.evictions(), 0);
    }

    #[test]
    fn all_circuits_tell_the_one_listener() {
        let opened = Arc::new(Mutex::new(Vec::new()));
        let log = opened.clone();
        let circuits = Circuits::<u32>::with_listener(
            Policy::consecutive(1),
            NonZeroUsize::new(10).unwrap(),
            move |circuit, event| {
                if let Event::Transition { to, .. } = event {
                    log.lock().unwrap().push((circuit.to_owned(), *to));
                }
            },
        );
        circuits.get(3).try_acquire().unwrap().failure();
        circuits.all().into_iter().for_each(|circuit| circuit.reset());
        let (open, closed) = (("3".to_owned(), State::Open), ("3".to_owned(), State::Closed));
        assert_eq!(*opened.lock().unwrap(), [open, closed]);
    }

    #[test]
    fn at_the_bound_with_nothing_to_forget_one_makes_room_and_is_counted() {
        let circuits = circuits(2);
        for key in 0..3 {
            circuits.get(key).try_acquire().unwrap().failure();
        }
        assert_eq!((circuits.len(), circuits.evictions()), (2, 1));
        assert_eq!(circuits.get(2).state(), State::Open);
    }

    #[test]
    fn at_the_bound_even_a_held_circuit_makes_room_and_is_counted() {
        let circuits = circuits(1);
        let held = circuits.get(1);
        let permit = held.try_acquire().unwrap();
        let _ = circuits.get(2);
        assert_eq!(circuits.evictions(), 1, "the holder no longer shares it");
        permit.failure();
        assert_eq!(held.state(), State::Open);
    }
}
