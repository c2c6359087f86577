//! Whether the server is asked: the failures in a row, and the pauses that follow from them.
//!
//! No future, no socket, no clock; `now` is in milliseconds since some start.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use rand::{Rng, RngExt};

/// What a call may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// Ask. The number tells calls of different times apart.
    Ask(u16),
    /// Ask, as the one that tries whether the server is back.
    Try(u16),
    /// Do not ask.
    Skip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    away: bool,
    /// Counts the pauses, and tells calls from before one from those after it.
    generation: u16,
    /// In a row, of calls of this generation.
    failures: u8,
    /// Pauses in a row, each longer than the one before.
    pauses: u8,
    /// Away: the end of the pause. Otherwise: from when on an answer ends the row of pauses.
    time: u64,
}

impl Word {
    const TIME_BITS: u32 = 40;

    const fn pack(self) -> u64 {
        (self.time & ((1 << Self::TIME_BITS) - 1)) << 24
            | (self.pauses as u64 & 0xf) << 20
            | (self.failures as u64) << 12
            | (self.generation as u64 & 0x7ff) << 1
            | self.away as u64
    }

    const fn unpack(word: u64) -> Self {
        Self {
            away: word & 1 == 1,
            generation: (word >> 1 & 0x7ff) as u16,
            failures: (word >> 12 & 0xff) as u8,
            pauses: (word >> 20 & 0xf) as u8,
            time: word >> 24,
        }
    }
}

/// One word for all callers; the common path is one load.
#[derive(Debug)]
pub(crate) struct Gate {
    word: AtomicU64,
    /// So many failures in a row, and the server is left alone.
    limit: u8,
    /// But only if it has been silent for so many milliseconds: a short stall fails all calls that were on their way.
    span: u64,
    /// When the first call of the row was made.
    failing_since: AtomicU64,
    /// In milliseconds.
    first_pause: u64,
    longest_pause: u64,
}

impl Gate {
    /// No span is longer, in milliseconds: eight years, which the word holds after 26.
    const LONGEST: u64 = 1 << 38;

    pub(crate) fn new(limit: u8, span: u64, first_pause: u64, longest_pause: u64) -> Self {
        let first_pause = first_pause.clamp(1, Self::LONGEST);
        let longest_pause = longest_pause.clamp(first_pause, Self::LONGEST);
        let (word, failing_since) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { word, limit, span, failing_since, first_pause, longest_pause }
    }

    /// Away → Away: the first call after the pause tries, and nobody else for as long as `patience`.
    pub(crate) fn admit(&self, now: u64, patience: u64) -> Admit {
        let seen = self.word.load(SeqCst);
        let word = Word::unpack(seen);
        if !word.away {
            return Admit::Ask(word.generation);
        }
        if now < word.time {
            return Admit::Skip;
        }
        let tried = Word { time: now + patience.min(Self::LONGEST), ..word }.pack();
        match self.word.compare_exchange(seen, tried, SeqCst, SeqCst) {
            Ok(_) => Admit::Try(word.generation),
            Err(_) => Admit::Skip,
        }
    }

    /// An answer came in time.
    pub(crate) fn answered(&self, now: u64, generation: u16) {
        self.change(|word| {
            let over = word.pauses > 0 && now >= word.time;
            let current = !word.away && word.generation == generation;
            (current && (word.failures > 0 || over)).then_some(Word {
                failures: 0,
                pauses: if over { 0 } else { word.pauses },
                ..word
            })
        });
    }

    /// No answer came to a call that was made at `silent_since`, or if that is none, one that is an error. True if this was the one too many: here → Away.
    pub(crate) fn failed(
        &self,
        now: u64,
        generation: u16,
        silent_since: Option<u64>,
        chance: &mut impl Rng,
    ) -> bool {
        let half = chance.random_range(0.5..1.0);
        let since = self.failing_since.load(SeqCst);
        let change = self.change(|word| {
            if word.away || word.generation != generation {
                return None;
            }
            let failures = word.failures.saturating_add(1);
            let for_long =
                self.limit == 1 || silent_since.is_none() || now.saturating_sub(since) >= self.span;
            if failures < self.limit || !for_long {
                return Some(Word { failures, ..word });
            }
            Some(self.paused(word, now, half))
        });
        if change.is_some_and(|word| !word.away && word.failures == 1) {
            self.failing_since.store(silent_since.unwrap_or(now), SeqCst);
        }
        change.is_some_and(|word| word.away)
    }

    /// It could not be reached: any → Away, with a longer pause each time.
    pub(crate) fn unreachable(&self, now: u64, chance: &mut impl Rng) {
        let half = chance.random_range(0.5..1.0);
        self.change(|word| Some(self.paused(word, now, half)));
    }

    /// It was reached and does what it is asked: any → here.
    pub(crate) fn reached(&self, now: u64) {
        self.change(|word| {
            // It must answer for as long as the last pause before the next one is short again. A server that is only just
            // slow enough to fail again and again is so asked less and less.
            let time = now + self.pause(word.pauses);
            word.away.then_some(Word { away: false, failures: 0, time, ..word })
        });
    }

    /// Milliseconds until somebody may try.
    pub(crate) fn away_for(&self, now: u64) -> u64 {
        let word = Word::unpack(self.word.load(SeqCst));
        if word.away { word.time.saturating_sub(now) } else { 0 }
    }

    fn paused(&self, word: Word, now: u64, part: f64) -> Word {
        let pauses = word.pauses.saturating_add(1).min(15);
        // Processes that lost the server at the same moment do not come back at the same moment.
        let pause = (self.pause(pauses) as f64 * part) as u64;
        Word {
            away: true,
            generation: (word.generation + 1) & 0x7ff,
            failures: 0,
            pauses,
            time: now + pause.max(1),
        }
    }

    fn pause(&self, pauses: u8) -> u64 {
        let doubled = self.first_pause.saturating_mul(1 << pauses.saturating_sub(1));
        doubled.min(self.longest_pause)
    }

    /// Changes the word to what `to` says, and gives it; `None` if it is to stay.
    fn change(&self, to: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        let mut seen = self.word.load(SeqCst);
        loop {
            let next = to(Word::unpack(seen))?;
            match self.word.compare_exchange_weak(seen, next.pack(), SeqCst, SeqCst) {
                Ok(_) => return Some(next),
                Err(changed) => seen = changed,
            }
        }
    }
}

#[cfg(test)]
mod tests;
