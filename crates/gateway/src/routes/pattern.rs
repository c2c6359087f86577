//! Templates of paths, and what their parameters stand for.

/// A path with parameters, by segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    pub(super) segments: Vec<Segment>,
    /// Names of the parameters, from left to right.
    names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(String),
    /// One parameter, with text around it or not.
    Parameter {
        prefix: String,
        suffix: String,
    },
    /// The rest of the path behind a slash, be there something or not.
    Tail,
}

impl Pattern {
    /// A search goes down a step for each of them.
    const MOST_SEGMENTS: usize = 128;

    /// # Errors
    ///
    /// What is wrong with `template`, which begins with a slash.
    pub(crate) fn parse(template: &str) -> Result<Self, String> {
        let mut pattern = Self { segments: Vec::new(), names: Vec::new() };
        let segments: Vec<&str> = template.split('/').skip(1).collect();
        if segments.len() > Self::MOST_SEGMENTS {
            return Err(format!("it has more than {} segments", Self::MOST_SEGMENTS));
        }
        for (at, text) in segments.iter().enumerate() {
            let segment = pattern.segment(text)?;
            if segment == Segment::Tail && at + 1 < segments.len() {
                return Err(TAIL.into());
            }
            pattern.segments.push(segment);
        }
        if pattern.names.len() > Captures::MOST {
            return Err(format!("it has more than {} parameters", Captures::MOST));
        }
        Ok(pattern)
    }

    fn segment(&mut self, text: &str) -> Result<Segment, String> {
        let pieces = pieces(text)?;
        let mut names = pieces.iter().filter_map(|piece| match piece {
            Piece::Name(name) => Some(name),
            Piece::Text(_) => None,
        });
        let (Some(name), more) = (names.next(), names.next()) else {
            return Ok(Segment::Literal(unescaped(&pieces)));
        };
        if more.is_some() {
            return Err("a segment has one parameter at most: /{name} or /v{name}.json".into());
        }
        let (name, is_tail) = match name.strip_prefix('*') {
            Some(name) => (name, true),
            None => (name.as_str(), false),
        };
        if !is_name(name) {
            return Err(PARAMETER.into());
        }
        if self.names.iter().any(|other| other == name) {
            return Err(format!("it has two parameters {name:?}"));
        }
        self.names.push(name.to_owned());
        let at = pieces.iter().position(|piece| matches!(piece, Piece::Name(_))).unwrap_or(0);
        match (is_tail, pieces.len()) {
            (true, 1) => Ok(Segment::Tail),
            (true, _) => Err(TAIL.into()),
            (false, _) => Ok(Segment::Parameter {
                prefix: unescaped(&pieces[..at]),
                suffix: unescaped(&pieces[at + 1..]),
            }),
        }
    }

    /// What the parameters stand for in `path`, if it has this pattern.
    #[cfg(any(test, fuzzing, feature = "compose"))]
    pub(crate) fn captures(&self, path: &str) -> Option<Captures> {
        let mut captures = Captures::default();
        let mut from = 1;
        let mut segments = self.segments.iter().peekable();
        while let Some(segment) = segments.next() {
            let rest = path.get(from..)?;
            if *segment == Segment::Tail {
                captures.push(from, path.len());
                return Some(captures);
            }
            let to = from + rest.find('/').unwrap_or(rest.len());
            let (prefix, suffix) = match segment {
                Segment::Parameter { prefix, suffix } => (prefix.len(), suffix.len()),
                _ => (0, 0),
            };
            if !segment.fits(&path[from..to]) || segments.peek().is_none() != (to == path.len()) {
                return None;
            }
            if matches!(segment, Segment::Parameter { .. }) {
                captures.push(from + prefix, to - suffix);
            }
            from = to + 1;
        }
        Some(captures)
    }

    /// Place of the parameter `name` among all.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    pub(crate) fn has_tail(&self, name: &str) -> bool {
        self.segments.last() == Some(&Segment::Tail) && self.names.last().is_some_and(|n| n == name)
    }

    /// The parameters, as they are told of.
    pub(crate) fn described(&self) -> String {
        let names: Vec<_> = self.names.iter().map(|name| format!("{name:?}")).collect();
        if names.is_empty() { "none at all".to_owned() } else { names.join(" and ") }
    }
}

impl Segment {
    #[cfg(any(test, fuzzing, feature = "compose"))]
    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == text,
            Self::Parameter { prefix, suffix } => {
                text.len() > prefix.len() + suffix.len()
                    && text.starts_with(&**prefix)
                    && text.ends_with(&**suffix)
            }
            Self::Tail => !text.is_empty(),
        }
    }
}

const PARAMETER: &str =
    "a parameter is written {name} with a name of at least one letter, a literal brace {{ or }}";
const TAIL: &str = "{*name} stands for the rest of the path, so it is the whole last segment";

/// Text, and names in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Name(String),
}

/// Text and names in braces in turn; `{{` and `}}` are braces.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, found) = rest.split_at(at);
        literal.push_str(before);
        if let Some(after) = found.strip_prefix("{{").or_else(|| found.strip_prefix("}}")) {
            literal.push_str(&found[..1]);
            rest = after;
            continue;
        }
        let end = found.strip_prefix('{').and_then(|name| name.find('}')).ok_or(PARAMETER)?;
        if !literal.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Name(found[1..=end].to_owned()));
        rest = &found[end + 2..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Ok(pieces)
}

fn unescaped(pieces: &[Piece]) -> String {
    let text = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Name(_) => String::new(),
    };
    pieces.iter().map(text).collect()
}

/// Letters, digits, `_` and `-`, not only of digits: dots are for what a request says.
fn is_name(name: &str) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    name.chars().all(in_name) && name.contains(char::is_alphabetic)
}

/// What the parameters of a pattern stand for in one path: where they begin and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Captures {
    spans: [(u16, u16); Self::MOST],
    len: usize,
}

impl Captures {
    const MOST: usize = 16;

    /// The values in `path`, which is the one they were found in.
    pub(crate) fn get<'p>(&self, path: &'p str, place: usize) -> &'p str {
        let (from, to) = self.spans.get(place).copied().unwrap_or_default();
        path.get(usize::from(from)..usize::from(to)).unwrap_or_default()
    }

    pub(super) fn push(&mut self, from: usize, to: usize) {
        let place = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
        if let Some(span) = self.spans.get_mut(self.len) {
            *span = (place(from), place(to));
            self.len += 1;
        }
    }

    pub(super) fn pop(&mut self) {
        self.len = self.len.saturating_sub(1);
        // Equal ones are equal whatever was tried before.
        if let Some(span) = self.spans.get_mut(self.len) {
            *span = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_read_by_segments() {
        let pattern = Pattern::parse("/v{major}.json/{{x}}/{id}/{*rest}").unwrap();
        let parameter = |prefix: &str, suffix: &str| Segment::Parameter {
            prefix: prefix.into(),
            suffix: suffix.into(),
        };
        assert_eq!(
            pattern.segments,
            [
                parameter("v", ".json"),
                Segment::Literal("{x}".into()),
                parameter("", ""),
                Segment::Tail
            ]
        );
        assert_eq!(pattern.place("rest"), Some(2));
        assert!(pattern.has_tail("rest") && !pattern.has_tail("id"));
        assert_eq!(Pattern::parse("/").unwrap().segments, [Segment::Literal(String::new())]);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for bad in [
            "/{", "/}", "/a}b", "/{}", "/{1}", "/{a.b}", "/{a}{b}", "/{*}", "/a{*b}", "/{*b}c",
            "/{*b}/c", "/{a}/{a}",
        ] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        let many: String = (0..17).map(|n| format!("/{{p{n}}}")).collect();
        assert!(Pattern::parse(&many).is_err());
        assert!(Pattern::parse(&"/a".repeat(129)).is_err());
    }
}
