use super::Branch;

/// One request that becomes several at once, whose answers become one JSON object.
///
/// ```
/// use std::time::Duration;
/// use gusset_gateway::{Branch, FanOut, Route};
///
/// let home = FanOut::new()
///     .branch(Branch::new("user", "user-service", "/users/{id}"))
///     .branch(Branch::new("orders", "order-service", "/orders?user={id}").at("/items"))
///     .branch(
///         Branch::new("picks", "recommendation-service", "/picks/{id}")
///             .timeout(Duration::from_millis(300))
///             .optional(),
///     );
/// let route = Route::new("/api/home/{id}").fan_out(home).authenticated();
/// ```
///
/// The answer is `{"user": …, "orders": …, "picks": …}`, always in the order of the branches. Values are copied byte by byte, so that no number loses its digits.
///
/// | if a branch | and it is required | and it is [optional](Branch::optional) |
/// |---|---|---|
/// | answers 2xx with JSON, or 204 | its value is a member (of 204: `null`) | the same |
/// | answers anything else | that is the whole answer, as it is | it is missing, with its status |
/// | fails, is late, too large or no JSON | 502, 503 or 504, as of a plain route | it is missing, with that status |
///
/// What is missing has no member of its own; it is named under `missing`, and the status stays 200:
///
/// ```json
/// {"user": {"name": "Ann"}, "orders": [], "missing": {"picks": {"status": 504, "detail": "the service did not answer in time"}}}
/// ```
///
/// If a required branch cannot be had, the others are cancelled at once. If no branch at all can be had, that is the answer of the first one.
///
/// It takes GET and HEAD alone: several effects could not be taken back together. Branches are asked by GET, with the sender's identity and all other fields of the
/// request, but for those that speak of its body, of ranges, of encodings and of what the client has stored. Fields of the branches' answers do not go on, `Set-Cookie` neither.
/// The answer says `Cache-Control: no-cache`, and `no-store` if something is missing.
///
/// Memory: at most [`max_body`](Self::max_body) for each branch of each request under way, and the same once more while the answer is written.
#[derive(Clone, Debug)]
pub struct FanOut {
    pub(super) branches: Vec<Branch>,
    pub(super) max_body: usize,
    pub(super) missing: Box<str>,
}

impl FanOut {
    /// Most branches of a route. One request costs as many.
    pub const MOST: usize = 32;

    /// Without a branch yet; it needs one to [`MOST`](Self::MOST).
    #[must_use]
    pub fn new() -> Self {
        Self { branches: Vec::new(), max_body: 1024 * 1024, missing: "missing".into() }
    }

    /// Adds a branch.
    #[must_use]
    pub fn branch(mut self, branch: Branch) -> Self {
        self.branches.push(branch);
        self
    }

    /// How many bytes the answer of one branch may have; one with more counts as failed. Default 1 MiB.
    #[must_use]
    pub const fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// The member that names what is missing. Default `missing`.
    #[must_use]
    pub fn missing_as(mut self, member: impl Into<Box<str>>) -> Self {
        self.missing = member.into();
        self
    }
}

impl Default for FanOut {
    fn default() -> Self {
        Self::new()
    }
}
