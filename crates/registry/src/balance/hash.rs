//! Numbers that look like chance. They are part of what processes agree on, so they never change.

use std::cell::Cell;

/// A number for a key that is the same in every process and every release, for [`Consistent`](crate::Consistent).
///
/// FNV-1a and a finaliser. It resists nobody who chooses keys in order to overload one instance; the bound on the load of
/// an instance does.
#[must_use]
pub fn hash_key(key: impl AsRef<[u8]>) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(key.as_ref().iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[inline]
pub(crate) const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// 64 bits by chance, from a generator of this thread: a tenth of the cost of the one of `rand`, and good enough to
/// choose an instance (wyrand, by Wang Yi).
#[inline]
pub(crate) fn chance() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(rand::random());
    }
    STATE.with(|state| {
        let now = state.get().wrapping_add(0xa076_1d64_78bd_642f);
        state.set(now);
        let product = u128::from(now) * u128::from(now ^ 0xe703_7ed1_a0b4_28db);
        (product >> 64) as u64 ^ product as u64
    })
}

/// A random place for a rotation to begin: small, for 64-bit processors divide small numbers faster.
pub(crate) fn first_turn() -> usize {
    (chance() >> 33) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_key_never_changes() {
        assert_eq!(hash_key("cart-1"), hash_key(b"cart-1"));
        assert_eq!(
            [hash_key(""), hash_key("cart-1")],
            [14_087_677_454_934_409_008, 13_139_197_796_886_807_710]
        );
        assert_ne!(hash_key("cart-1"), hash_key("cart-2"));
    }

    #[test]
    fn every_bit_of_chance_is_set_half_of_the_time() {
        let mut counts = [0; 64];
        for _ in 0..10_000 {
            let number = chance();
            for (bit, count) in counts.iter_mut().enumerate() {
                *count += (number >> bit) & 1;
            }
        }
        assert!(counts.iter().all(|count| (4_700..5_300).contains(count)), "{counts:?}");
    }

    #[test]
    fn chance_differs_from_thread_to_thread() {
        let elsewhere = std::thread::spawn(chance).join().unwrap();
        assert_ne!(chance(), elsewhere);
    }
}
