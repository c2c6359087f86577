//! Inputs that were found worth keeping, and changes of them.

use std::{env, fs, panic, path::Path};

/// Changes of a corpus for each target.
const CHANGES: usize = 3_000;

/// Calls `target` with each file of `fuzz/corpus/{name}` in this workspace, and with 3,000 seeded changes of them, or 60,000 where `GUSSET_DEEP` is
/// set: the same ones each time.
///
/// # Panics
/// If there is no such corpus, or where `target` panics; with what it was called with.
pub fn holds(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!corpus.is_empty(), "there is nothing in the corpus of {name}");
    let tried = |bytes: &[u8]| {
        if let Err(broken) = panic::catch_unwind(|| target(bytes)) {
            eprintln!("{name} does not hold for b\"{}\"", bytes.escape_ascii());
            panic::resume_unwind(broken);
        }
    };
    corpus.iter().for_each(|bytes| tried(bytes));
    let mut chance = Chance(8);
    let times = if env::var_os("GUSSET_DEEP").is_some() { 20 * CHANGES } else { CHANGES };
    (0..times).for_each(|_| tried(&chance.changed(&corpus)));
}

/// What a seed makes happen: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// Less than `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }

    /// One of `corpus`, with some bytes changed, taken, doubled, or out of another.
    fn changed(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        const ODD: &[u8] = b"\r\n\0 \t:;,./%\\{}*\"'=_-+01aF\x7f\x80\xff";
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let other = &corpus[self.below(corpus.len())];
            let from = self.below(other.len() + 1);
            let to = from + self.below(other.len() - from + 1);
            let odd = ODD[self.below(ODD.len())];
            match self.below(5) {
                0 => bytes.insert(at, odd),
                1 if at < bytes.len() => bytes[at] = odd,
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.truncate(at),
                _ => drop(bytes.splice(at..at, other[from..to].iter().copied())),
            }
        }
        bytes
    }
}
