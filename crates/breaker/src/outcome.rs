/// What a result says about the health of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The service works.
    Success,
    /// The service is broken or overloaded.
    Failure,
    /// Nothing, for instance because the caller left. A probe gives its place back without a verdict.
    Ignored,
}
