use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{Circuit, Event, Listener, Policy};

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
/// At the bound, a new key takes the place of one whose circuit is closed, without failures and held by
/// nobody: forgetting that one changes nothing, and so an idle one is reclaimed. Where a handful of tries finds none such, one that does
/// remember something makes room, and [`Circuits::evictions`] counts it; whoever still holds that circuit goes on using it.
pub struct Circuits<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    policy: Policy,
    listener: Option<Arc<dyn Listener>>,
    capacity: NonZeroUsize,
    table: Mutex<Table<K>>,
}

struct Table<K> {
    places: HashMap<K, usize>,
    slots: Vec<(K, Circuit)>,
    hand: usize,
    evictions: u64,
}

impl<K: Hash + Eq + Clone + fmt::Display> Circuits<K> {
    /// At most `capacity` circuits, all with `policy`.
    #[must_use]
    pub fn new(policy: Policy, capacity: NonZeroUsize) -> Self {
        Self::build(policy, capacity, None)
    }

    /// At most `capacity` circuits, all with `policy`, that all tell `listener` what happens to them.
    #[must_use]
    pub fn with_listener(policy: Policy, capacity: NonZeroUsize, listener: impl Listener) -> Self {
        Self::build(policy, capacity, Some(Arc::new(listener)))
    }

    fn build(policy: Policy, capacity: NonZeroUsize, listener: Option<Arc<dyn Listener>>) -> Self {
        let table = Table { places: HashMap::new(), slots: Vec::new(), hand: 0, evictions: 0 };
        Self { shared: Arc::new(Shared { policy, listener, capacity, table: Mutex::new(table) }) }
    }

    /// The circuit of `key`, a new one if need be. It is named like the key. One short lock, O(1); keep the circuit
    /// where a key is used again and again.
    #[must_use]
    pub fn get(&self, key: K) -> Circuit {
        let mut table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&place) = table.places.get(&key) {
            return table.slots[place].1.clone();
        }
        let listener = self.shared.listener.clone();
        let listener = listener.map(|listener| Box::new(Shares(listener)) as Box<dyn Listener>);
        let circuit = Circuit::build(key.to_string().into(), self.shared.policy, listener);
        table.insert(key, circuit.clone(), self.shared.capacity.get());
        circuit
    }

    /// All circuits there are, in no order: for a page that shows them, or an order to all. O(n) under the lock.
    #[must_use]
    pub fn all(&self) -> Vec<Circuit> {
        let table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.slots.iter().map(|(_, circuit)| circuit.clone()).collect()
    }

    /// How many circuits there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner).slots.len()
    }

    /// Whether there are none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many circuits that remembered something had to make room.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner).evictions
    }
}

impl<K: Hash + Eq + Clone> Table<K> {
    /// How many slots the hand looks at for one that may be forgotten without loss.
    const TRIES: usize = 8;

    fn insert(&mut self, key: K, circuit: Circuit, capacity: usize) {
        if self.slots.len() < capacity {
            self.places.insert(key.clone(), self.slots.len());
            self.slots.push((key, circuit));
            return;
        }
        let place = self.victim();
        let (forgotten, _) = std::mem::replace(&mut self.slots[place], (key.clone(), circuit));
        self.places.remove(&forgotten);
        self.places.insert(key, place);
    }

    fn victim(&mut self) -> usize {
        let slots = self.slots.len();
        for step in 0..Self::TRIES.min(slots) {
            let place = (self.hand + step) % slots;
            if self.slots[place].1.is_disposable() {
                self.hand = (place + 1) % slots;
                return place;
            }
        }
        let place = self.hand;
        self.hand = (place + 1) % slots;
        self.evictions += 1;
        place
    }
}

/// One of many circuits that tell the same listener.
struct Shares(Arc<dyn Listener>);

impl Listener for Shares {
    fn event(&self, circuit: &str, event: &Event<'_>) {
        self.0.event(circuit, event);
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
    use crate::State;

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
            move |circuit: &str, event: &Event<'_>| {
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
