use std::{fmt, str::FromStr, sync::Arc};

/// What a message is about: tokens with dots between them, such as `order.created`.
///
/// A token is any text without white space, control characters, dots, `*` and `>`; upper and lower case differ. At most
/// [`Subject::MAX_LENGTH`] bytes. Clones share the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Arc<str>);

impl Subject {
    /// Longest subject and longest pattern, in bytes: enough for a name in any sensible scheme.
    pub const MAX_LENGTH: usize = 256;

    /// Checks `subject`.
    ///
    /// # Errors
    ///
    /// [`InvalidSubject`] names what is wrong and where.
    pub fn new(subject: impl Into<Arc<str>>) -> Result<Self, InvalidSubject> {
        let subject = subject.into();
        check(&subject, Wildcards::Forbidden)?;
        Ok(Self(subject))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which subjects are meant: a subject in which `*` stands for exactly one token and a last `>` for one or more.
///
/// ```
/// use gusset_broker::{Pattern, Subject};
///
/// let created = Subject::new("order.eu.created")?;
/// assert!(Pattern::new("order.*.created")?.matches(&created));
/// assert!(Pattern::new("order.>")?.matches(&created));
/// assert!(!Pattern::new("order.*")?.matches(&created));
///
/// let error = Pattern::new("order.>.created").unwrap_err();
/// assert_eq!(error.to_string(), "\"order.>.created\": token 2 is `>`, which may only stand last");
/// # Ok::<(), gusset_broker::InvalidSubject>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    text: Arc<str>,
    literal: bool,
    /// How many bytes come before the first wildcard.
    literal_bytes: usize,
}

impl Pattern {
    /// Checks `pattern`.
    ///
    /// # Errors
    ///
    /// [`InvalidSubject`] names what is wrong and where.
    pub fn new(pattern: impl Into<Arc<str>>) -> Result<Self, InvalidSubject> {
        let text = pattern.into();
        check(&text, Wildcards::Allowed)?;
        let wildcard = text.find(['*', '>']);
        let literal_bytes = wildcard.unwrap_or(text.len());
        Ok(Self { text, literal: wildcard.is_none(), literal_bytes })
    }

    /// Whether `subject` is among those meant.
    #[must_use]
    pub fn matches(&self, subject: &Subject) -> bool {
        if self.literal {
            return self.text == subject.0;
        }
        let (pattern, subject) = (self.text.as_bytes(), subject.0.as_bytes());
        // What comes before the first wildcard is compared as a whole; both are then at the beginning of a token.
        let literal = self.literal_bytes;
        if subject.len() <= literal || subject[..literal] != pattern[..literal] {
            return false;
        }
        match &pattern[literal..] {
            b">" => true,
            b"*" => !subject[literal..].contains(&b'.'),
            pattern => tokens_match(pattern, &subject[literal..]),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Both begin with a token, and have at least one.
fn tokens_match(mut pattern: &[u8], mut subject: &[u8]) -> bool {
    loop {
        let (wanted, more_pattern) = first_token(pattern);
        if wanted == b">" {
            return true;
        }
        let (token, more_subject) = first_token(subject);
        if wanted != b"*" && wanted != token {
            return false;
        }
        match (more_pattern, more_subject) {
            (Some(more_pattern), Some(more_subject)) => {
                (pattern, subject) = (more_pattern, more_subject)
            }
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// The first token, and what comes after its dot.
fn first_token(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], Some(&text[dot + 1..])),
        None => (text, None),
    }
}

macro_rules! text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidSubject;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }
    )*};
}

text!(Subject, Pattern);

impl TryFrom<&str> for Subject {
    type Error = InvalidSubject;

    fn try_from(text: &str) -> Result<Self, InvalidSubject> {
        Self::new(text)
    }
}

impl TryFrom<String> for Subject {
    type Error = InvalidSubject;

    fn try_from(text: String) -> Result<Self, InvalidSubject> {
        Self::new(text)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wildcards {
    Allowed,
    Forbidden,
}

fn check(text: &str, wildcards: Wildcards) -> Result<(), InvalidSubject> {
    match problem_of(text, wildcards) {
        None => Ok(()),
        Some(problem) => {
            let text = text.chars().take(Subject::MAX_LENGTH).collect();
            Err(InvalidSubject { text, problem })
        }
    }
}

fn problem_of(text: &str, wildcards: Wildcards) -> Option<Problem> {
    if text.is_empty() {
        return Some(Problem::Empty);
    }
    if text.len() > Subject::MAX_LENGTH {
        return Some(Problem::TooLong);
    }
    let last = text.split('.').count();
    text.split('.').enumerate().find_map(|(index, token)| {
        let place = index + 1;
        let wild = token == "*" || token == ">";
        if token.is_empty() {
            Some(Problem::EmptyToken { place })
        } else if token.contains(|c: char| c.is_whitespace() || c.is_control()) {
            Some(Problem::Unprintable { place })
        } else if wild && wildcards == Wildcards::Forbidden {
            Some(Problem::WildcardInSubject { place })
        } else if !wild && token.contains(['*', '>']) {
            Some(Problem::WildcardInToken { place })
        } else if token == ">" && place != last {
            Some(Problem::RestNotLast { place })
        } else {
            None
        }
    })
}

/// A subject or pattern that breaks a rule; says which one, and at which token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSubject {
    text: String,
    problem: Problem,
}

/// Places count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Empty,
    TooLong,
    EmptyToken { place: usize },
    Unprintable { place: usize },
    WildcardInSubject { place: usize },
    WildcardInToken { place: usize },
    RestNotLast { place: usize },
}

impl fmt::Display for InvalidSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: ", self.text)?;
        match self.problem {
            Problem::Empty => f.write_str("a subject has at least one token"),
            Problem::TooLong => write!(f, "longer than {} bytes", Subject::MAX_LENGTH),
            Problem::EmptyToken { place } => write!(f, "token {place} is empty"),
            Problem::Unprintable { place } => {
                write!(f, "token {place} contains white space or a control character")
            }
            Problem::WildcardInSubject { place } => {
                write!(f, "token {place} is a wildcard, which only patterns may have")
            }
            Problem::WildcardInToken { place } => {
                write!(f, "token {place} contains a wildcard, which may only stand alone")
            }
            Problem::RestNotLast { place } => {
                write!(f, "token {place} is `>`, which may only stand last")
            }
        }
    }
}

impl std::error::Error for InvalidSubject {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_by_token() {
        for (pattern, subject, expected) in [
            ("order.created", "order.created", true),
            ("order.created", "order.create", false),
            ("order.*", "order.created", true),
            ("order.*", "order", false),
            ("order.*", "order.eu.created", false),
            ("*", "order", true),
            ("*.*", "order", false),
            ("*.created", "order.created", true),
            (">", "a.b.c", true),
            ("order.>", "order.a", true),
            ("order.>", "order.a.b", true),
            ("order.>", "order", false),
            ("*.>", "order.a", true),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.b.d", false),
        ] {
            let (p, s) = (Pattern::new(pattern).unwrap(), Subject::new(subject).unwrap());
            assert_eq!(p.matches(&s), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn an_error_names_what_is_wrong_and_where() {
        for (subject, expected) in [
            ("", "\"\": a subject has at least one token"),
            ("a..b", "\"a..b\": token 2 is empty"),
            ("a.", "\"a.\": token 2 is empty"),
            (".a", "\".a\": token 1 is empty"),
            ("a b.c", "\"a b.c\": token 1 contains white space or a control character"),
            ("a.\u{7}", "\"a.\\u{7}\": token 2 contains white space or a control character"),
            ("a.*", "\"a.*\": token 2 is a wildcard, which only patterns may have"),
            ("a.b*", "\"a.b*\": token 2 contains a wildcard, which may only stand alone"),
        ] {
            assert_eq!(Subject::new(subject).unwrap_err().to_string(), expected);
        }
        let long = Subject::new("x".repeat(300)).unwrap_err().to_string();
        assert!(long.ends_with("longer than 256 bytes"), "{long}");
        assert!(Subject::new("x".repeat(256)).is_ok());
    }

    fn token() -> impl Strategy<Value = String> {
        "[a-c]{1,2}"
    }

    /// As the definition says, token by token.
    fn plainly(pattern: &str, subject: &str) -> bool {
        let mut tokens = subject.split('.');
        for wanted in pattern.split('.') {
            match (wanted, tokens.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }

    proptest! {
        #[test]
        fn it_matches_what_the_definition_says(
            pattern in prop::collection::vec("[ab]{1,2}|\\*", 0..5), rest: bool, subject in prop::collection::vec("[ab]{1,2}", 1..6)
        ) {
            let mut pattern = pattern;
            if rest || pattern.is_empty() {
                pattern.push(">".into());
            }
            let (pattern, subject) = (pattern.join("."), subject.join("."));
            let matches = Pattern::new(&*pattern).unwrap().matches(&Subject::new(&*subject).unwrap());
            prop_assert_eq!(matches, plainly(&pattern, &subject), "{} {}", pattern, subject);
        }

        #[test]
        fn no_text_panics(text in ".{0,300}") {
            let _ = (Subject::new(&*text), Pattern::new(&*text));
        }

        #[test]
        fn a_token_may_be_replaced_by_a_star_and_a_tail_by_the_rest(
            tokens in prop::collection::vec(token(), 1..6), at: prop::sample::Index
        ) {
            let subject = Subject::new(tokens.join(".")).unwrap();
            let at = at.index(tokens.len());
            let mut starred = tokens.clone();
            starred[at] = "*".into();
            prop_assert!(Pattern::new(starred.join(".")).unwrap().matches(&subject));
            let mut cut = tokens[..at].to_vec();
            cut.push(">".into());
            prop_assert!(Pattern::new(cut.join(".")).unwrap().matches(&subject));
            cut.push("more".into());
            prop_assert!(Pattern::new(cut.join(".")).is_err());
        }
    }
}
