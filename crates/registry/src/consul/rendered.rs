//! Answers that many are about to ask for: when a change wakes 2,000 watchers, it is written as JSON once.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;

/// By what was asked for.
#[derive(Debug, Default)]
pub(super) struct Rendered(HashMap<String, Kept>);

#[derive(Debug)]
struct Kept {
    index: u64,
    at: Duration,
    body: Bytes,
}

/// What a check puts out changes no index, and is seen this much later by who was blocked.
const LONGEST: Duration = Duration::from_secs(1);
/// So at most 64 MiB, and those for a second.
const MOST: usize = 64;
const LARGEST: usize = 1 << 20;

impl Rendered {
    pub(super) fn get(&self, asked: &str, index: u64, now: Duration) -> Option<Bytes> {
        let kept = self.0.get(asked)?;
        let fresh = kept.index == index && now.saturating_sub(kept.at) < LONGEST;
        fresh.then(|| kept.body.clone())
    }

    pub(super) fn put(&mut self, asked: String, index: u64, now: Duration, body: Bytes) {
        if body.len() > LARGEST {
            return;
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(asked, Kept { index, at: now, body });
    }

    /// Drops what is too old.
    pub(super) fn tick(&mut self, now: Duration) {
        self.0.retain(|_, kept| now.saturating_sub(kept.at) < LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_rendered_is_given_for_its_index_for_a_second_and_is_bounded() {
        let (mut rendered, now) = (Rendered::default(), Duration::from_secs(5));
        rendered.put("a".into(), 7, now, Bytes::from_static(b"[]"));
        assert!(rendered.get("a", 7, now).is_some());
        assert!(rendered.get("a", 8, now).is_none() && rendered.get("b", 7, now).is_none());
        assert!(rendered.get("a", 7, now + LONGEST).is_none());
        rendered.put("large".into(), 7, now, Bytes::from(vec![0; LARGEST + 1]));
        assert!(rendered.get("large", 7, now).is_none());
        for n in 0..1_000 {
            rendered.put(n.to_string(), 7, now, Bytes::new());
        }
        assert!(rendered.0.len() <= MOST);
        rendered.tick(now + LONGEST);
        assert!(rendered.0.is_empty());
    }
}
