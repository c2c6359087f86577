use std::{fmt, str::FromStr, sync::Arc};

use crate::ambient::Beside;

/// The specification's bound on members; a list with more is none.
const MAX_MEMBERS: usize = 32;
/// The specification asks to pass on at least 512 bytes.
const MAX_BYTES: usize = 4096;

/// W3C `tracestate`: what tracing systems leave for each other beside [`TraceContext`](crate::TraceContext). It is passed on as it came and never read. Clones share one text.
///
/// Beside [`Context`](crate::Context) and not in it, since most calls have none and a context is copied.
///
/// ```
/// use gusset_call::TraceState;
///
/// let state: TraceState = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE".parse()?;
/// TraceState::sync_scope(Some(state.clone()), || assert_eq!(TraceState::current(), Some(state)));
/// assert_eq!(TraceState::current(), None);
/// # Ok::<(), gusset_call::MalformedTracestate>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct TraceState(Arc<str>);

impl TraceState {
    /// That of the call that this task works for.
    #[must_use]
    pub fn current() -> Option<Self> {
        Beside::current(|beside| beside.state.clone())
    }

    /// Runs `f` with `state`, or with none, as what is current. For a future: around each poll.
    pub fn sync_scope<R>(state: Option<Self>, f: impl FnOnce() -> R) -> R {
        Beside::scope(|beside| beside.state = state, f)
    }

    /// The text, as it came.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TraceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TraceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for TraceState {
    type Err = MalformedTracestate;

    /// At most 32 members and 4,096 bytes; nothing is trimmed, and a key that is there twice stays so: which member holds is for those to say who
    /// read them.
    fn from_str(text: &str) -> Result<Self, MalformedTracestate> {
        is_well_formed(text).then(|| Self(text.into())).ok_or(MalformedTracestate)
    }
}

/// The text is no `tracestate`, and is to be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedTracestate;

impl fmt::Display for MalformedTracestate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed tracestate")
    }
}

impl std::error::Error for MalformedTracestate {}

fn is_well_formed(state: &str) -> bool {
    if state.len() > MAX_BYTES {
        return false;
    }
    let mut members = 0;
    // Line breaks are no white space here: where this goes out as a header, they would begin another.
    for member in state.split(',').map(|member| member.trim_matches([' ', '\t']).as_bytes()) {
        if member.is_empty() {
            continue;
        }
        let Some(equals) = member.iter().position(|byte| *byte == b'=') else { return false };
        let (key, value) = (&member[..equals], &member[equals + 1..]);
        if members == MAX_MEMBERS || !is_key(key) || !is_value(value) {
            return false;
        }
        members += 1;
    }
    members > 0
}

/// Lower case, and `@` where an older version of the specification wants it once, before the name of a system.
fn is_key(key: &[u8]) -> bool {
    let starts_well =
        key.first().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit());
    let is_part =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte);
    starts_well && key.len() <= 256 && key.iter().all(is_part)
}

fn is_value(value: &[u8]) -> bool {
    (1..=256).contains(&value.len())
        && value.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_good_state_passes_as_it_came() {
        for good in [
            "a=1",
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "t@v=x y",
            "a=1 ,, b=2",
            "a=1,a=2",
            "a@=1",
            "a@@b=1",
        ] {
            assert_eq!(good.parse::<TraceState>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn an_ill_formed_state_is_none() {
        let many = (0..33).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        let long_key = format!("{}=1", "k".repeat(257));
        let long_value = format!("k={}", "v".repeat(257));
        for bad in
            ["", ",", "a", "=1", "a=", "A=1", "a=1=2", "@a=1", "a b=1", "a.b=1", "é=1", "a=1,\nb=2"]
        {
            assert_eq!(bad.parse::<TraceState>(), Err(MalformedTracestate), "{bad}");
        }
        for bad in [many, long_key, long_value] {
            assert!(bad.parse::<TraceState>().is_err());
        }
    }

    #[test]
    fn an_inner_scope_hides_the_outer_one_and_gives_it_back() {
        let outer: TraceState = "a=1".parse().unwrap();
        TraceState::sync_scope(Some(outer.clone()), || {
            TraceState::sync_scope(None, || assert_eq!(TraceState::current(), None));
            assert_eq!(TraceState::current(), Some(outer));
        });
        assert_eq!(TraceState::current(), None);
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "\\PC{0,600}") {
            let _ = text.parse::<TraceState>();
        }
    }
}
