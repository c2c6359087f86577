use std::{fmt, str::FromStr, sync::Arc};

use crate::{TraceId, ambient::Beside};

/// Longest text of an identifier, in bytes: it goes into every line of the log.
const MAX_BYTES: usize = 128;

/// What a request is called in logs and by its sender (`x-request-id`): 1 to 128 visible ASCII characters. Clones share one text.
///
/// Unlike a [`TraceId`], the sender may choose it, and two requests may have the same.
///
/// ```
/// use gusset_call::RequestId;
///
/// let id: RequestId = "req-7".parse()?;
/// RequestId::sync_scope(Some(id), || assert_eq!(RequestId::current().unwrap().as_str(), "req-7"));
/// assert!("two words".parse::<RequestId>().is_err());
/// # Ok::<(), gusset_call::MalformedRequestId>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// That of the call that this task works for.
    #[must_use]
    pub fn current() -> Option<Self> {
        Beside::current(|beside| beside.request_id.clone())
    }

    /// Runs `f` with `id`, or with none, as what is current. For a future: around each poll, or
    /// [`Ambient::scope`](crate::Ambient::scope).
    pub fn sync_scope<R>(id: Option<Self>, f: impl FnOnce() -> R) -> R {
        Beside::scope(|beside| beside.request_id = id, f)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// For a request that came without one: who looks for it finds the trace as well.
impl From<TraceId> for RequestId {
    fn from(trace: TraceId) -> Self {
        Self(trace.to_string().into())
    }
}

impl FromStr for RequestId {
    type Err = MalformedRequestId;

    fn from_str(text: &str) -> Result<Self, MalformedRequestId> {
        let well_formed = (1..=MAX_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        well_formed.then(|| Self(text.into())).ok_or(MalformedRequestId)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The text is no [`RequestId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedRequestId;

impl fmt::Display for MalformedRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not 1 to 128 visible ASCII characters")
    }
}

impl std::error::Error for MalformedRequestId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_break_a_line_of_the_log_or_fill_it_is_none() {
        for bad in ["", "a b", "a\nb", "é", "\u{7f}", &"x".repeat(129)] {
            assert_eq!(bad.parse::<RequestId>(), Err(MalformedRequestId), "{bad:?}");
        }
        assert!("x".repeat(128).parse::<RequestId>().is_ok());
    }
}
