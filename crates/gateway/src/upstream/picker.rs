use std::{fmt, sync::Arc};

use gusset_registry::{
    Candidates, Consistent, LeastLoaded, LocalRoundRobin, Needs, Pick, Random, RoundRobin,
    WeightedRoundRobin, hash_key,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};

use crate::body::AttemptBody;

/// Which instance of an upstream takes a request: any of the registry's, [`LeastLoaded`], [`RoundRobin`], [`LocalRoundRobin`], [`WeightedRoundRobin`],
/// [`Random`], or [`Consistent`] by what a request says. Default [`LeastLoaded::new`].
#[derive(Clone)]
pub struct Picker(Kind);

#[derive(Clone)]
enum Kind {
    /// The usual one needs no pointer.
    LeastLoaded(LeastLoaded),
    Other(&'static str, Arc<dyn Pick<Request<AttemptBody>> + Send + Sync>),
}

impl Picker {
    /// The same instance for the same key, as long as it is there and has not much more to do than the others: [`Consistent`]. `key` reads a request as its instance would see
    /// it, and runs in the path of each attempt; [`hash_key`] makes a number of text. Requests without a key go to one by chance.
    pub fn consistent(
        key: impl Fn(&HeaderMap, &Uri) -> Option<u64> + Send + Sync + 'static,
    ) -> Self {
        let key = move |request: &Request<AttemptBody>| key(request.headers(), request.uri());
        Self::other("Consistent", Consistent::new(key))
    }

    /// [`Consistent`] by the first line of this field.
    pub fn by_header(name: HeaderName) -> Self {
        Self::consistent(move |headers, _| headers.get(&name).map(hash_of))
    }

    /// [`Consistent`] by the value of this cookie.
    pub fn by_cookie(name: impl Into<String>) -> Self {
        let name = name.into();
        Self::consistent(move |headers, _| {
            let mut cookies = headers.get_all(header::COOKIE).iter().flat_map(|line| {
                line.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
            });
            let value = |cookie: &[u8]| {
                let value = cookie.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                Some(hash_key(value))
            };
            cookies.find_map(value)
        })
    }

    fn other(
        name: &'static str,
        pick: impl Pick<Request<AttemptBody>> + Send + Sync + 'static,
    ) -> Self {
        Self(Kind::Other(name, Arc::new(pick)))
    }
}

fn hash_of(value: &HeaderValue) -> u64 {
    hash_key(value.as_bytes())
}

impl Pick<Request<AttemptBody>> for Picker {
    fn pick(&self, request: &Request<AttemptBody>, candidates: &Candidates<'_>) -> Option<usize> {
        match &self.0 {
            Kind::LeastLoaded(pick) => pick.pick(request, candidates),
            Kind::Other(_, pick) => pick.pick(request, candidates),
        }
    }

    fn needs(&self) -> Needs {
        match &self.0 {
            Kind::LeastLoaded(pick) => Pick::<Request<AttemptBody>>::needs(pick),
            Kind::Other(_, pick) => pick.needs(),
        }
    }
}

impl Default for Picker {
    fn default() -> Self {
        LeastLoaded::new().into()
    }
}

impl From<LeastLoaded> for Picker {
    fn from(pick: LeastLoaded) -> Self {
        Self(Kind::LeastLoaded(pick))
    }
}

/// The others have no settings.
macro_rules! from {
    ($($pick:ident),+) => {$(
        impl From<$pick> for Picker {
            fn from(pick: $pick) -> Self {
                Self::other(stringify!($pick), pick)
            }
        }
    )+};
}

from!(RoundRobin, LocalRoundRobin, WeightedRoundRobin, Random);

impl fmt::Debug for Picker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::LeastLoaded(pick) => pick.fmt(f),
            Kind::Other(name, _) => f.write_str(name),
        }
    }
}
