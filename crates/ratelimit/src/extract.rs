/// Finds the key of a request. Closures `|&Request| -> Option<Key>` do, and so do tuples of two or three extractors.
///
/// The key of a tuple is the tuple of their keys. If one of them finds none, there is none at all: the request is treated by
/// [`WithoutKey`], as it would be if the others had found none either.
pub trait Extract<Req> {
    /// What tells callers apart.
    type Key;

    /// The key of `request`, if it has one. Runs on the path of every call, under no lock.
    fn extract(&self, request: &Req) -> Option<Self::Key>;
}

impl<F, Req, K> Extract<Req> for F
where
    F: Fn(&Req) -> Option<K>,
{
    type Key = K;

    fn extract(&self, request: &Req) -> Option<K> {
        self(request)
    }
}

impl<Req, A, B> Extract<Req> for (A, B)
where
    A: Extract<Req>,
    B: Extract<Req>,
{
    type Key = (A::Key, B::Key);

    fn extract(&self, request: &Req) -> Option<Self::Key> {
        Some((self.0.extract(request)?, self.1.extract(request)?))
    }
}

impl<Req, A, B, C> Extract<Req> for (A, B, C)
where
    A: Extract<Req>,
    B: Extract<Req>,
    C: Extract<Req>,
{
    type Key = (A::Key, B::Key, C::Key);

    fn extract(&self, request: &Req) -> Option<Self::Key> {
        Some((self.0.extract(request)?, self.1.extract(request)?, self.2.extract(request)?))
    }
}

/// What becomes of requests in which there is no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WithoutKey {
    /// They share one bucket of the same quota, which no key can reach.
    #[default]
    ShareOne,
    /// They pass without limit; for where something outside vouches for them.
    Pass,
    /// They are refused with [`Inadmissible`](gusset_call::Inadmissible), which over HTTP is 403 and has no time to come back, for
    /// time does not mend them. Mind that it refuses everybody if the key is missing by a mistake of the server's own, such as a
    /// peer address that nobody put into the extensions.
    Refuse,
}
