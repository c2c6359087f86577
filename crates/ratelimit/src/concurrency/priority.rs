/// Who is refused first when places are scarce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Priority {
    /// May take every place.
    #[default]
    Normal,
    /// May take a place only while less than [`Concurrency::low_share`](crate::Concurrency::low_share) of all are taken, by
    /// whomever. Under overload it may get none at all: nothing is kept for it.
    Low,
}

/// Finds the priority of requests. Closures `|&Request| -> Priority` do.
pub trait Prioritize<Req> {
    /// The priority of `request`. Runs on the path of every call, under no lock.
    fn priority(&self, request: &Req) -> Priority;
}

impl<F, Req> Prioritize<Req> for F
where
    F: Fn(&Req) -> Priority,
{
    fn priority(&self, request: &Req) -> Priority {
        self(request)
    }
}

/// All requests are of normal priority.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllNormal;

impl<Req> Prioritize<Req> for AllNormal {
    fn priority(&self, _: &Req) -> Priority {
        Priority::Normal
    }
}
