//! Finds the patterns that a path has: a tree of segments.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::pattern::{Captures, Pattern, Segment};

/// What stands at each of many patterns.
///
/// A path is looked up segment by segment, each by one look into a map however many patterns there are. Where several fit, the literal segment goes before
/// one with a parameter in it, the longer text around that before the shorter, and the rest of the path comes last. If none
/// of what stands at the first is of use, the next one is tried, so a pattern never hides another.
#[derive(Clone, Debug)]
pub(super) struct Paths<T> {
    /// The first is the root.
    nodes: Vec<Node>,
    leaves: Vec<T>,
}

/// Between two segments.
#[derive(Clone, Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, usize, BuildHasherDefault<Words>>,
    /// Those with the most text around their parameter first.
    parameters: Vec<Parameter>,
    /// What stands at the rest of the path.
    tail: Option<usize>,
    /// What stands here.
    leaf: Option<usize>,
}

#[derive(Clone, Debug)]
struct Parameter {
    prefix: Box<str>,
    suffix: Box<str>,
    node: usize,
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], leaves: Vec::new() }
    }
}

impl<T: Default> Paths<T> {
    /// What stands at `pattern`.
    pub(super) fn at(&mut self, pattern: &Pattern) -> &mut T {
        let mut here = 0;
        let mut tail = false;
        for segment in &pattern.segments {
            match segment {
                Segment::Literal(text) => here = self.literal(here, text),
                Segment::Parameter { prefix, suffix } => {
                    here = self.parameter(here, prefix, suffix);
                }
                Segment::Tail => tail = true,
            }
        }
        let node = &mut self.nodes[here];
        let place = if tail { &mut node.tail } else { &mut node.leaf };
        let leaf = *place.get_or_insert(self.leaves.len());
        if leaf == self.leaves.len() {
            self.leaves.push(T::default());
        }
        &mut self.leaves[leaf]
    }

    fn literal(&mut self, node: usize, text: &str) -> usize {
        if let Some(&next) = self.nodes[node].literals.get(text) {
            return next;
        }
        let next = self.add();
        self.nodes[node].literals.insert(text.into(), next);
        next
    }

    fn parameter(&mut self, node: usize, prefix: &str, suffix: &str) -> usize {
        let mut known = self.nodes[node].parameters.iter();
        if let Some(same) = known.find(|p| (&*p.prefix, &*p.suffix) == (prefix, suffix)) {
            return same.node;
        }
        let next = self.add();
        let parameters = &mut self.nodes[node].parameters;
        parameters.push(Parameter { prefix: prefix.into(), suffix: suffix.into(), node: next });
        let text = |p: &Parameter| (p.prefix.len() + p.suffix.len(), p.prefix.len());
        parameters.sort_by_key(|p| std::cmp::Reverse(text(p)));
        next
    }

    fn add(&mut self) -> usize {
        self.nodes.push(Node::default());
        self.nodes.len() - 1
    }
}

impl<T> Paths<T> {
    /// Shows what stands at the patterns of `path`, the most specific first, until `is_it` says yes; whether it did.
    pub(super) fn find(&self, path: &str, is_it: &mut impl FnMut(&T, &Captures) -> bool) -> bool {
        // Longer than any target that the HTTP library takes, and than what a capture can hold.
        if !path.starts_with('/') || path.len() > usize::from(u16::MAX) {
            return false;
        }
        self.descend(0, path, 1, &mut Captures::default(), is_it)
    }

    /// Each node is entered at one place of the path only, so the work is bounded by the number of nodes.
    fn descend(
        &self,
        node: usize,
        path: &str,
        from: usize,
        captures: &mut Captures,
        is_it: &mut impl FnMut(&T, &Captures) -> bool,
    ) -> bool {
        let node = &self.nodes[node];
        let to = path[from..].find('/').map_or(path.len(), |length| from + length);
        let segment = &path[from..to];
        if let Some(&next) = node.literals.get(segment) {
            if self.enter(next, path, to, captures, is_it) {
                return true;
            }
        }
        for Parameter { prefix, suffix, node } in &node.parameters {
            let around = prefix.len() + suffix.len();
            let fits = segment.starts_with(&**prefix) && segment.ends_with(&**suffix);
            if segment.len() > around && fits {
                captures.push(from + prefix.len(), to - suffix.len());
                if self.enter(*node, path, to, captures, is_it) {
                    return true;
                }
                captures.pop();
            }
        }
        let Some(tail) = node.tail else { return false };
        captures.push(from, path.len());
        let found = is_it(&self.leaves[tail], captures);
        captures.pop();
        found
    }

    fn enter(
        &self,
        node: usize,
        path: &str,
        to: usize,
        captures: &mut Captures,
        is_it: &mut impl FnMut(&T, &Captures) -> bool,
    ) -> bool {
        if to < path.len() {
            return self.descend(node, path, to + 1, captures, is_it);
        }
        self.nodes[node].leaf.is_some_and(|leaf| is_it(&self.leaves[leaf], captures))
    }
}

/// Hashes eight bytes at a time. What is looked up comes from outside, but what is in the maps does not, so nobody can make them slow.
#[derive(Default)]
struct Words(u64);

impl Hasher for Words {
    fn finish(&self) -> u64 {
        // The map takes its place from the low bits and a tag from the high ones.
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            // The multiplier of rustc's hasher for its tables.
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0xf135_7aea_2e62_a9c5);
            self.0 ^= self.0 >> 32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn paths(templates: &[String]) -> Paths<Vec<usize>> {
        let mut paths = Paths::<Vec<usize>>::default();
        for (number, template) in templates.iter().enumerate() {
            paths.at(&Pattern::parse(template).unwrap()).push(number);
        }
        paths
    }

    fn all(paths: &Paths<Vec<usize>>, path: &str) -> Vec<usize> {
        let mut found = Vec::new();
        paths.find(path, &mut |leaf, _| {
            found.extend(leaf);
            false
        });
        found
    }

    /// Whether a path has a pattern, by the definition.
    fn has(segments: &[Segment], path: &[&str]) -> bool {
        match (segments, path) {
            ([], []) => true,
            ([Segment::Tail], rest) => !rest.is_empty(),
            ([first, segments @ ..], [text, path @ ..]) => {
                let fits = match first {
                    Segment::Literal(literal) => literal == text,
                    Segment::Parameter { prefix, suffix } => {
                        text.len() > prefix.len() + suffix.len()
                            && text.starts_with(&**prefix)
                            && text.ends_with(&**suffix)
                    }
                    Segment::Tail => false,
                };
                fits && has(segments, path)
            }
            _ => false,
        }
    }

    #[test]
    fn the_most_specific_comes_first_and_hides_nothing() {
        let templates = [
            "/{*rest}",
            "/{a}/b",
            "/x/{b}",
            "/x/v{b}",
            "/x/v{b}.json",
            "/x/{*rest}",
            "/x/v1.json",
            "/x/",
        ];
        let paths = paths(&templates.map(String::from));
        assert_eq!(all(&paths, "/x/v1.json"), [6, 4, 3, 2, 5, 0]);
        assert_eq!(all(&paths, "/x/b"), [2, 5, 1, 0]);
        assert_eq!(all(&paths, "/x/"), [7, 5, 0]);
        assert_eq!(all(&paths, "/x"), [0]);
        assert_eq!(all(&paths, "/"), [0]);
        assert!(all(&paths, "x").is_empty());
        assert_eq!(all(&paths, "/x/v.json"), [3, 2, 5, 0]);
    }

    #[test]
    fn parameters_stand_for_what_they_are() {
        let paths = paths(&["/{a}/v{b}.json/{*c}".to_owned()]);
        let path = "/x/v1.json/y/z";
        let found = paths.find(path, &mut |_, captures| {
            assert_eq!([0, 1, 2, 3].map(|n| captures.get(path, n)), ["x", "1", "y/z", ""]);
            true
        });
        assert!(found);
    }

    proptest! {
        #[test]
        fn it_finds_what_the_definition_says(
            templates in proptest::collection::vec("(/(a|b|ab|\\{p\\}|a\\{p\\}|\\{p\\}b)){1,4}(/|/\\{\\*t\\})?", 1..12),
            path in "(/(a|b|ab|abb|c)){1,4}/?",
        ) {
            // Parameters of one template have different names.
            let templates: Vec<String> = templates.iter().map(|t| {
                t.split("{p}").enumerate().map(|(n, s)| if n == 0 { s.to_owned() } else { format!("{{p{n}}}{s}") }).collect()
            }).collect();
            let mut found = all(&paths(&templates), &path);
            found.sort_unstable();
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            let patterns: Vec<_> = templates.iter().map(|t| Pattern::parse(t).unwrap()).collect();
            let expected: Vec<usize> =
                (0..patterns.len()).filter(|&n| has(&patterns[n].segments, &segments)).collect();
            let alone: Vec<usize> =
                (0..patterns.len()).filter(|&n| patterns[n].captures(&path).is_some()).collect();
            prop_assert_eq!(&alone, &expected);
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn no_path_panics(path in "\\PC{0,40}") {
            let paths = paths(&["/{a}", "/é{a}ü/{*b}", "/{*rest}"].map(String::from));
            all(&paths, &path);
        }
    }
}
