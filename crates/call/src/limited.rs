use std::{fmt, sync::Arc, time::Duration};

/// A rate limiter has no tokens left for this caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    retry_after: Duration,
    /// Behind a pointer, so that a refusal which tells nobody stays small and needs no allocation.
    limits: Option<Box<[ServiceLimit]>>,
}

impl Limited {
    /// Enough tokens will be there `retry_after` from now.
    #[must_use]
    pub const fn new(retry_after: Duration) -> Self {
        Self { retry_after, limits: None }
    }

    /// What the client is to be told of the quotas that took part: [`AnswerLayer`](crate::AnswerLayer) writes them as fields.
    #[must_use]
    pub fn with_limits(mut self, limits: impl Into<Box<[ServiceLimit]>>) -> Self {
        self.limits = Some(limits.into());
        self
    }

    /// Adds what is left of another quota, one that would have let the call through. Without a time: who has to wait for one quota need
    /// not be told how long to make do with the others.
    pub fn add(&mut self, limit: ServiceLimit) {
        let limit = ServiceLimit { window: None, ..limit };
        self.limits = Some(self.told().iter().cloned().chain([limit]).collect());
    }

    /// How long until enough tokens are there; always known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        Some(self.retry_after)
    }

    pub(crate) fn told(&self) -> &[ServiceLimit] {
        self.limits.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rate limit exceeded, come back in {} s", whole_seconds(self.retry_after).max(1))
    }
}

/// A limiter will never let this call through, however long the caller waits: the call lacks what callers are told apart by, or it
/// costs more than is ever allowed at once.
///
/// Over HTTP that is 403, over gRPC 7 `PERMISSION_DENIED`, both without a time to come back. 429 would be a promise
/// that it works later; 401 would ask for credentials, of which a limiter knows nothing; 400 would call a request malformed that others may well take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inadmissible {
    why: &'static str,
}

impl Inadmissible {
    /// `why` is one lower-case phrase. Clients read it.
    #[must_use]
    pub const fn new(why: &'static str) -> Self {
        Self { why }
    }
}

impl fmt::Display for Inadmissible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why)
    }
}

/// A quota as clients are told of it: its name, and how many tokens per window. Clones share it.
///
/// It is the item of a `RateLimit-Policy` field (`draft-ietf-httpapi-ratelimit-headers`).
#[derive(Clone)]
pub struct QuotaPolicy(Arc<Policy>);

struct Policy {
    /// The item as it stands in the field.
    item: Box<str>,
    /// How much of it is the name in its quotes.
    name: usize,
    #[cfg(feature = "http")]
    tokens: u64,
    /// The item as a whole field, for most answers tell of one quota only.
    #[cfg(feature = "http")]
    field: http::HeaderValue,
}

impl QuotaPolicy {
    /// `tokens` in each span of `window`.
    ///
    /// Characters that cannot stand in a name (all but printable ASCII, `"` and `\`) are replaced by `_`. The field knows whole seconds only: a window
    /// of a broken number is told as the next whole one, with the tokens that come in that, rounded down.
    #[must_use]
    pub fn new(name: &str, tokens: u64, window: Duration) -> Self {
        let allowed = |c: char| (c == ' ' || c.is_ascii_graphic()) && c != '"' && c != '\\';
        let name: String = name.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
        let seconds = whole_seconds(window).max(1);
        let tokens = match window.as_nanos() {
            0 => u128::from(tokens),
            nanos => {
                (u128::from(tokens) * u128::from(seconds)).saturating_mul(1_000_000_000) / nanos
            }
        };
        let tokens = integer(u64::try_from(tokens).unwrap_or(u64::MAX));
        let item = format!("\"{name}\";q={tokens};w={}", integer(seconds));
        Self(Arc::new(Policy {
            name: name.len() + 2,
            #[cfg(feature = "http")]
            tokens,
            #[cfg(feature = "http")]
            field: fields::value(&item),
            item: item.into(),
        }))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.item[1..self.0.name - 1]
    }
}

impl PartialEq for QuotaPolicy {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.item == other.0.item
    }
}

impl Eq for QuotaPolicy {}

impl fmt::Debug for QuotaPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QuotaPolicy").field(&self.0.item).finish()
    }
}

/// What is left of one quota, as the client is told.
///
/// It is the item of a `RateLimit` field (`draft-ietf-httpapi-ratelimit-headers`), and of a `RateLimit-Policy` field beside it.
///
/// ```
/// # #[cfg(feature = "http")] {
/// use std::time::Duration;
/// use gusset_call::{QuotaPolicy, ServiceLimit};
///
/// let burst = QuotaPolicy::new("burst", 100, Duration::from_secs(60));
/// let daily = QuotaPolicy::new("daily", 1_000, Duration::from_secs(86_400));
/// let limits = [
///     ServiceLimit::new(burst, 50).within(Duration::from_secs(30)),
///     ServiceLimit::new(daily, 900).within(Duration::from_secs(77_760)),
/// ];
///
/// let mut headers = http::HeaderMap::new();
/// ServiceLimit::tell(&limits, &mut headers);
/// assert_eq!(headers["ratelimit-policy"], "\"burst\";q=100;w=60, \"daily\";q=1000;w=86400");
/// assert_eq!(headers["ratelimit"], "\"burst\";r=50;t=30, \"daily\";r=900;t=77760");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceLimit {
    policy: QuotaPolicy,
    remaining: u64,
    /// In seconds.
    window: Option<u64>,
    exceeded: bool,
    legacy: bool,
}

impl ServiceLimit {
    /// So many tokens of `policy` are left.
    #[must_use]
    pub const fn new(policy: QuotaPolicy, remaining: u64) -> Self {
        Self { policy, remaining, window: None, exceeded: false, legacy: false }
    }

    /// For how long the client should make do with them. Told in whole seconds, rounded up.
    #[must_use]
    pub const fn within(mut self, span: Duration) -> Self {
        self.window = Some(whole_seconds(span));
        self
    }

    /// This quota is why the call was refused: the problem body names it.
    #[must_use]
    pub const fn exceeded(mut self) -> Self {
        self.exceeded = true;
        self
    }

    /// Also told by `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, as clients know them that are older
    /// than the draft. `Reset` is a number of seconds from now, the `t` of the draft, and no point in time: clocks of clients are
    /// wrong. These fields have no names, so of several quotas they tell the one with the fewest tokens left.
    #[must_use]
    pub const fn with_legacy(mut self) -> Self {
        self.legacy = true;
        self
    }

    /// The quota.
    #[must_use]
    pub const fn policy(&self) -> &QuotaPolicy {
        &self.policy
    }

    /// How many tokens are left.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.remaining
    }
}

/// Rounded up.
pub(crate) const fn whole_seconds(span: Duration) -> u64 {
    span.as_secs().saturating_add((span.subsec_nanos() > 0) as u64)
}

/// Integers of structured fields have at most 15 digits (RFC 9651, section 3.3.1).
fn integer(number: u64) -> u64 {
    number.min(999_999_999_999_999)
}

#[cfg(feature = "http")]
mod fields {
    use std::fmt::Write as _;

    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::{ServiceLimit, integer};

    const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
    const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
    const LEGACY_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
    const LEGACY_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
    const LEGACY_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

    impl ServiceLimit {
        /// Adds `RateLimit-Policy` and `RateLimit` with one member for each of `limits`, behind what other limits have said there,
        /// and the older fields for those [`with_legacy`](Self::with_legacy). Nothing if there are none.
        pub fn tell(limits: &[Self], headers: &mut HeaderMap) {
            if limits.is_empty() {
                return;
            }
            let mut left = String::with_capacity(32 * limits.len());
            for limit in limits {
                let comma = if left.is_empty() { "" } else { ", " };
                let name = &limit.policy.0.item[..limit.policy.0.name];
                // Writing to a string does not fail.
                let _ = write!(left, "{comma}{name};r={}", integer(limit.remaining));
                if let Some(window) = limit.window {
                    let _ = write!(left, ";t={}", integer(window));
                }
            }
            let policies = match limits {
                [one] => one.policy.0.field.clone(),
                several => {
                    let items: Vec<_> = several.iter().map(|limit| &*limit.policy.0.item).collect();
                    value(&items.join(", "))
                }
            };
            headers.append(POLICY, policies);
            headers.append(LIMIT, value(&left));
            let legacy = limits.iter().filter(|limit| limit.legacy);
            if let Some(tightest) = legacy.min_by_key(|limit| limit.remaining) {
                tightest.tell_legacy(headers);
            }
        }

        /// Unless something further in has said that fewer are left.
        fn tell_legacy(&self, headers: &mut HeaderMap) {
            let said =
                headers.get(LEGACY_REMAINING).and_then(|left| left.to_str().ok()?.parse().ok());
            if said.is_some_and(|said: u64| said <= self.remaining) {
                return;
            }
            headers.insert(LEGACY_LIMIT, self.policy.0.tokens.into());
            headers.insert(LEGACY_REMAINING, self.remaining.into());
            match self.window {
                Some(window) => headers.insert(LEGACY_RESET, HeaderValue::from(window)),
                None => headers.remove(LEGACY_RESET),
            };
        }

        /// The names of those that were exceeded.
        pub(crate) fn violated(limits: &[Self]) -> impl Iterator<Item = &str> {
            limits.iter().filter(|limit| limit.exceeded).map(|limit| limit.policy.name())
        }
    }

    /// Of a line that has no characters but those which may stand in a field.
    pub(super) fn value(line: &str) -> HeaderValue {
        HeaderValue::from_str(line).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

#[cfg(all(test, feature = "http"))]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn told(limits: &[ServiceLimit]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        ServiceLimit::tell(limits, &mut headers);
        headers
    }

    fn policy(tokens: u64, millis: u64) -> QuotaPolicy {
        QuotaPolicy::new("default", tokens, Duration::from_millis(millis))
    }

    #[test]
    fn a_policy_is_told_in_whole_seconds() {
        for (tokens, millis, item) in [
            (100, 60_000, "\"default\";q=100;w=60"),
            (3, 100, "\"default\";q=30;w=1"),
            (3, 1_500, "\"default\";q=4;w=2"),
            (7, 0, "\"default\";q=7;w=1"),
            (u64::MAX, 1, "\"default\";q=999999999999999;w=1"),
        ] {
            assert_eq!(&*policy(tokens, millis).0.item, item);
        }
        let longest = QuotaPolicy::new("x", u64::MAX, Duration::MAX);
        assert!(longest.0.item.ends_with(";w=999999999999999"), "{longest:?}");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_quotes() {
        let policy = QuotaPolicy::new("a\"b\\c\r\nü", 1, Duration::from_secs(1));
        assert_eq!(policy.name(), "a_b_c___");
        assert_eq!(&*policy.0.item, "\"a_b_c___\";q=1;w=1");
        assert_eq!(QuotaPolicy::new("", 1, Duration::ZERO).name(), "");
    }

    #[test]
    fn the_older_fields_tell_the_quota_with_the_fewest_tokens_left() {
        let second = Duration::from_secs(1);
        let limit = |tokens, left| ServiceLimit::new(policy(tokens, 1_000), left).within(second);
        assert!(!told(&[limit(5, 4)]).contains_key("x-ratelimit-limit"), "only if asked for");

        let mut headers =
            told(&[limit(9, 7).with_legacy(), limit(5, 4).with_legacy(), limit(1, 0)]);
        assert_eq!(headers["x-ratelimit-limit"], "5");
        assert_eq!(headers["x-ratelimit-remaining"], "4");
        assert_eq!(headers["x-ratelimit-reset"], "1");
        ServiceLimit::tell(&[limit(99, 98).with_legacy()], &mut headers);
        assert_eq!(headers["x-ratelimit-limit"], "5", "an outer limit promises no more");
        ServiceLimit::tell(&[ServiceLimit::new(policy(3, 1), 2).with_legacy()], &mut headers);
        assert_eq!(headers["x-ratelimit-remaining"], "2");
        assert!(!headers.contains_key("x-ratelimit-reset"));
        assert_eq!(headers.get_all("ratelimit").iter().count(), 3);
    }

    #[test]
    fn who_has_nothing_to_tell_adds_nothing() {
        assert!(told(&[]).is_empty());
    }

    #[test]
    fn quotas_that_would_have_let_the_call_through_are_told_behind_and_without_a_time() {
        let second = Duration::from_secs(1);
        let mut limited =
            Limited::new(second)
                .with_limits([ServiceLimit::new(policy(5, 1_000), 0).within(second).exceeded()]);
        limited.add(ServiceLimit::new(policy(9, 1_000), 7).within(60 * second));
        assert_eq!(told(limited.told())["ratelimit"], "\"default\";r=0;t=1, \"default\";r=7");
    }

    #[test]
    fn a_refusal_is_small() {
        assert!(size_of::<Limited>() <= 32);
    }
}
