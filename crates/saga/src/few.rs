use std::ops::{Deref, DerefMut};

/// A list of places of steps that needs no allocation as long as it is short, as nearly all are.
#[derive(Clone, Debug)]
pub(crate) enum Few {
    Short { length: u8, places: [u32; Few::SHORT] },
    Long(Vec<u32>),
}

impl Few {
    const SHORT: usize = 6;

    pub(crate) const fn new() -> Self {
        Self::Short { length: 0, places: [0; Self::SHORT] }
    }

    pub(crate) fn push(&mut self, place: u32) {
        match self {
            Self::Short { length, places } => match places.get_mut(usize::from(*length)) {
                Some(room) => {
                    *room = place;
                    *length += 1;
                }
                None => {
                    let mut long = places.to_vec();
                    long.push(place);
                    *self = Self::Long(long);
                }
            },
            Self::Long(places) => places.push(place),
        }
    }

    /// Keeps the room of a long one.
    pub(crate) fn clear(&mut self) {
        match self {
            Self::Short { length, .. } => *length = 0,
            Self::Long(places) => places.clear(),
        }
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        let mut kept = 0;
        for at in 0..self.len() {
            let place = self[at];
            if keep(place) {
                self[kept] = place;
                kept += 1;
            }
        }
        match self {
            Self::Short { length, .. } => *length = kept as u8,
            Self::Long(places) => places.truncate(kept),
        }
    }
}

impl Deref for Few {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match self {
            Self::Short { length, places } => &places[..usize::from(*length)],
            Self::Long(places) => places,
        }
    }
}

impl DerefMut for Few {
    fn deref_mut(&mut self) -> &mut [u32] {
        match self {
            Self::Short { length, places } => &mut places[..usize::from(*length)],
            Self::Long(places) => places,
        }
    }
}

impl PartialEq for Few {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl FromIterator<u32> for Few {
    fn from_iter<I: IntoIterator<Item = u32>>(places: I) -> Self {
        let mut few = Self::new();
        places.into_iter().for_each(|place| few.push(place));
        few
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_does_what_a_vec_does(
            first in proptest::collection::vec(any::<u32>(), 0..12), odd: u32,
            then in proptest::collection::vec(any::<u32>(), 0..12), clear: bool,
        ) {
            let (mut few, mut vec) = (first.iter().copied().collect::<Few>(), first);
            prop_assert_eq!(&*few, &*vec);
            few.retain(|place| place % 3 != odd % 3);
            vec.retain(|place| place % 3 != odd % 3);
            if clear {
                few.clear();
                vec.clear();
            }
            then.iter().for_each(|place| few.push(*place));
            vec.extend(then);
            prop_assert_eq!(&*few, &*vec);
        }
    }
}
