use std::{
    fmt::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Counts who is refused most, of however many keys, in 6 KiB. Clones count together.
///
/// Limiters keep no keys, so that whoever wants to know which ones are greedy notes those that were refused:
///
/// ```
/// use std::{net::IpAddr, num::NonZeroUsize};
/// use gusset_ratelimit::{Greedy, Keyed, Quota};
///
/// let clients = Keyed::<IpAddr>::new(Quota::per_minute(1), NonZeroUsize::new(10_000).unwrap());
/// let greedy = Greedy::new();
/// let client = "192.0.2.1".parse().unwrap();
/// for _ in 0..4 {
///     if clients.check(&client).is_err() {
///         greedy.note(client);
///     }
/// }
/// assert_eq!((&*greedy.top(1)[0].key, greedy.top(1)[0].refused), ("192.0.2.1", 3));
/// ```
///
/// It is the Space-Saving sketch of Metwally, Agrawal and El Abbadi (2005) with [`PLACES`](Self::PLACES) places: a key that finds none takes the place of the one that was refused least,
/// and its count. So of `n` refusals every key with more than `n / PLACES` is here, and no count is more than [`over`](GreedyKey::over) too high, which is at most `n / PLACES`.
/// A flood of made-up keys pushes out those that are refused seldom, and never one that is refused more often than that.
///
/// Who is admitted pays nothing. Who is refused pays about as much again as the refusal; of those who come at the same instant only one is counted here, nobody waits,
/// and [`missed`](Self::missed) counts the others.
///
/// Keys are cut after [`LETTERS`](Self::LETTERS) bytes, and those that are the same until then are one. They are kept as they are and shown to whoever may look: note no secrets.
#[derive(Clone, Default)]
pub struct Greedy(Arc<Shared>);

#[derive(Default)]
struct Shared {
    places: Mutex<Vec<Place>>,
    missed: AtomicU64,
}

/// A key, and how often it was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GreedyKey {
    /// The key, at most [`Greedy::LETTERS`] bytes of it.
    pub key: String,
    /// How often it was refused, never too low but for what was [missed](Greedy::missed).
    pub refused: u64,
    /// By how much that may be too high.
    pub over: u64,
}

#[derive(Clone, Copy)]
struct Place {
    text: Text,
    refused: u64,
    over: u64,
}

/// The beginning of a text, without an allocation.
#[derive(Clone, Copy)]
struct Text {
    length: u8,
    bytes: [u8; Greedy::LETTERS],
}

impl Greedy {
    /// How many keys are counted at once.
    pub const PLACES: usize = 64;

    /// How many bytes of a key count.
    pub const LETTERS: usize = 64;

    /// Nobody was refused yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more refusal of `key`.
    pub fn note(&self, key: impl fmt::Display) {
        // Before the lock: what a key does to be shown is not ours.
        let mut text = Text { length: 0, bytes: [0; Self::LETTERS] };
        // It says that the text is full.
        let _ = write!(text, "{key}");
        match self.0.places.try_lock() {
            Ok(mut places) => count(&mut places, text),
            Err(_) => {
                self.0.missed.fetch_add(1, Relaxed);
            }
        }
    }

    /// The keys that were refused most, so many at most, the greediest first.
    #[must_use]
    pub fn top(&self, most: usize) -> Vec<GreedyKey> {
        // Nothing of it panics, and nothing is half changed.
        let mut places = self.0.places.lock().unwrap_or_else(PoisonError::into_inner).clone();
        places
            .sort_by(|a, b| b.refused.cmp(&a.refused).then_with(|| a.text.get().cmp(b.text.get())));
        places.truncate(most);
        let key = |place: &Place| GreedyKey {
            key: String::from_utf8_lossy(place.text.get()).into_owned(),
            refused: place.refused,
            over: place.over,
        };
        places.iter().map(key).collect()
    }

    /// Refusals that were not counted because another was at the same instant.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.0.missed.load(Relaxed)
    }
}

fn count(places: &mut Vec<Place>, text: Text) {
    if let Some(known) = places.iter_mut().find(|place| place.text.get() == text.get()) {
        known.refused += 1;
        return;
    }
    if places.len() < Greedy::PLACES {
        places.reserve_exact(Greedy::PLACES - places.len());
        places.push(Place { text, refused: 1, over: 0 });
        return;
    }
    if let Some(least) = places.iter_mut().min_by_key(|place| place.refused) {
        *least = Place { text, refused: least.refused + 1, over: least.refused };
    }
}

impl Text {
    fn get(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let at = usize::from(self.length);
        let room = Greedy::LETTERS - at;
        let cut = (0..=room.min(more.len())).rev().find(|cut| more.is_char_boundary(*cut));
        let cut = cut.unwrap_or(0);
        self.bytes[at..at + cut].copy_from_slice(&more.as_bytes()[..cut]);
        self.length += u8::try_from(cut).unwrap_or(0);
        if cut < more.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

impl fmt::Debug for Greedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Greedy").field("missed", &self.missed()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_greediest_come_first_and_all_are_counted_while_there_is_room() {
        let greedy = Greedy::new();
        for (key, times) in [("ann", 2), ("bob", 5), ("cat", 1)] {
            (0..times).for_each(|_| greedy.clone().note(key));
        }
        let top =
            |most| greedy.top(most).into_iter().map(|k| (k.key, k.refused)).collect::<Vec<_>>();
        assert_eq!(top(2), [("bob".to_owned(), 5), ("ann".to_owned(), 2)]);
        assert_eq!(top(9).len(), 3);
        assert_eq!(greedy.missed(), 0);
    }

    #[test]
    fn long_keys_are_cut_between_letters() {
        let greedy = Greedy::new();
        greedy.note("ä".repeat(100));
        greedy.note(format_args!("x{}", "ä".repeat(100)));
        let top = greedy.top(2);
        assert_eq!(top[0].key, format!("x{}", "ä".repeat(31)));
        assert_eq!(top[1].key, "ä".repeat(32));
    }

    #[test]
    fn who_is_counted_meanwhile_makes_nobody_wait() {
        let greedy = Greedy::new();
        let held = greedy.0.places.lock().unwrap();
        greedy.note("ann");
        drop(held);
        assert_eq!((greedy.missed(), greedy.top(1).len()), (1, 0));
    }

    proptest! {
        #[test]
        fn whoever_is_refused_more_than_a_64th_of_the_time_is_there_and_no_count_is_further_off(
            noise in prop::collection::vec(0_u32..100_000, 0..3_000),
            greedy_ones in prop::collection::vec(0_u32..4, 0..600),
        ) {
            let greedy = Greedy::new();
            let mut exact = HashMap::<String, u64>::new();
            // In turns, as they come in life.
            let (mut a, mut b) = (noise.iter(), greedy_ones.iter());
            loop {
                let keys: Vec<_> = a.by_ref().take(5).map(|n| format!("n{n}")).chain(b.next().map(|n| format!("g{n}"))).collect();
                if keys.is_empty() { break }
                for key in keys {
                    greedy.note(&key);
                    *exact.entry(key).or_default() += 1;
                }
            }
            let (top, all) = (greedy.top(usize::MAX), exact.values().sum::<u64>());
            prop_assert!(top.len() <= Greedy::PLACES);
            prop_assert_eq!(top.iter().map(|k| k.refused).sum::<u64>(), all);
            let most_off = all / Greedy::PLACES as u64;
            for found in &top {
                let truth = exact[&found.key];
                prop_assert!(found.refused >= truth && found.refused - found.over <= truth);
                prop_assert!(found.over <= most_off);
            }
            for (key, count) in exact {
                prop_assert!(count <= most_off || top.iter().any(|found| found.key == key));
            }
        }
    }
}
