/// What is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    /// No tag is 0.
    pub(crate) const FREE: Self = Self(0);
    pub(crate) const TIME_BITS: u32 = 38;
    pub(crate) const TIME: u64 = (1 << Self::TIME_BITS) - 1;
    pub(crate) const NEW: u64 = 1 << (Self::TIME_BITS + 2);
    pub(crate) const TAG_SHIFT: u32 = Self::TIME_BITS + 3;
    pub(crate) const TAG: u64 = u64::MAX >> Self::TAG_SHIFT;

    /// Times up to here ahead of the clock are in the future, all others in the past. One epoch is the most that a burst needs; the
    /// other half is for callers whose clock is a little behind.
    pub(crate) const FUTURE: u64 = 3 << (Self::TIME_BITS - 3);

    #[inline]
    pub(crate) const fn new(tag: u64, generation: u64, full_at: u64) -> Self {
        Self(tag << Self::TAG_SHIFT | (generation % 4) << Self::TIME_BITS | full_at & Self::TIME)
    }

    /// With the number of its maker in place of a time, so that no maker takes another's for its own.
    pub(crate) const fn unconfirmed(tag: u64, maker: u64) -> Self {
        Self(tag << Self::TAG_SHIFT | Self::NEW | maker & (Self::NEW - 1))
    }

    pub(crate) const fn tag(self) -> u64 {
        self.0 >> Self::TAG_SHIFT
    }

    pub(crate) const fn is_unconfirmed(self) -> bool {
        self.0 & Self::NEW != 0
    }

    #[inline]
    pub(crate) const fn is_ordinary(self, tag: u64) -> bool {
        self.0 ^ tag << Self::TAG_SHIFT < Self::NEW
    }

    /// The last two bits of the generation of its quota.
    #[inline]
    pub(crate) const fn generation(self) -> u64 {
        self.0 >> Self::TIME_BITS & 3
    }

    /// The tick at which the bucket is full; none if it is full already.
    #[inline]
    pub(crate) const fn full_at(self, clock: u64) -> Option<u64> {
        let ahead = self.0.wrapping_sub(clock) & Self::TIME;
        if self.0 != 0 && ahead != 0 && ahead < Self::FUTURE { Some(clock + ahead) } else { None }
    }

    /// Less, the longer a full bucket has been full; 0 for a free slot.
    pub(crate) const fn full_since(self, clock: u64) -> u64 {
        if self.0 == 0 { 0 } else { 1 + Self::TIME - (clock.wrapping_sub(self.0) & Self::TIME) }
    }
}
