use std::{fs, panic, path::Path};

/// Changes of a corpus for each target.
const CHANGES: usize = 3_000;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
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

/// The corpus of a target, changed as often as a test may take; `GUSSET_DEEP=1` twenty times as often.
fn holds(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!corpus.is_empty());
    corpus.iter().for_each(|bytes| target(bytes));
    let mut chance = Chance(8);
    let times = if std::env::var_os("GUSSET_DEEP").is_some() { 20 * CHANGES } else { CHANGES };
    for _ in 0..times {
        let bytes = chance.changed(&corpus);
        if let Err(broken) = panic::catch_unwind(|| target(&bytes)) {
            eprintln!("{name} does not hold for {:?}", String::from_utf8_lossy(&bytes));
            panic::resume_unwind(broken);
        }
    }
}

#[test]
fn targets_have_one_spelling() {
    holds("target", super::target);
}

#[test]
fn a_route_is_found_if_one_fits() {
    holds("route", super::route);
}

#[test]
fn nothing_of_a_connection_goes_on() {
    holds("headers", super::headers);
}

#[test]
fn a_client_is_its_peer_or_what_a_trusted_one_says() {
    holds("forwarded", super::forwarded);
}

#[test]
fn requests_are_the_same_however_they_come_in() {
    holds("request", super::request);
}

#[test]
fn answers_are_the_same_however_they_come_in() {
    holds("answer", super::answer);
}

#[cfg(feature = "jwt")]
#[test]
fn nobody_is_let_in_by_what_was_not_signed() {
    holds("jwt", super::jwt);
}

#[cfg(feature = "config")]
#[test]
fn no_file_makes_its_reader_stumble() {
    holds("config", super::config);
}
