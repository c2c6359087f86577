use std::fmt;

use crate::Instance;

/// Makes the service that calls one instance. Closures `Fn(&Instance) -> S` do.
///
/// It is asked when an instance is first picked, again when the instance [is reached in another way](Self::still_reaches), and
/// again after an error of the service's `poll_ready`, which ends a service by tower's contract. Two calls that meet a new
/// instance at once may both ask; one product is dropped. So what must outlive a service (its circuit, for instance) belongs
/// to the maker, kept by instance id.
pub trait MakeEndpoint {
    /// The service of an endpoint. Calls use clones of it, so it is a handle: a client, a channel, a pool.
    type Service: Clone;

    /// Makes the service of `instance`, without blocking.
    fn make(&self, instance: &Instance) -> Self::Service;

    /// Whether calls should go there at present. Others are preferred while this says no; where it says no of
    /// all, it is not heeded. Default: yes.
    fn is_eligible(&self, instance: &Instance, service: &Self::Service) -> bool {
        let _ = (instance, service);
        true
    }

    /// Whether a service that was made for `made_for` goes on serving that instance as it is `now`. Where this says no, another one is made, whose
    /// calls, failures and times begin at nothing.
    ///
    /// Default: as long as host, port and incarnation stay. So a change of weight, zone, tags, version or metadata costs no connection. A
    /// maker that reads more of the instance than its place (a scheme in the metadata, for instance) compares that as well.
    fn still_reaches(&self, made_for: &Instance, now: &Instance) -> bool {
        made_for.is_reached_like(now)
    }
}

impl<F, S> MakeEndpoint for F
where
    F: Fn(&Instance) -> S,
    S: Clone,
{
    type Service = S;

    fn make(&self, instance: &Instance) -> S {
        self(instance)
    }
}

/// A [`MakeEndpoint`] with a rule of its own for who is eligible; from [`Balance::eligible`](crate::Balance::eligible).
#[derive(Clone)]
pub struct Eligible<M, F> {
    make: M,
    rule: F,
}

impl<M, F> Eligible<M, F> {
    pub(crate) const fn new(make: M, rule: F) -> Self {
        Self { make, rule }
    }
}

impl<M, F> MakeEndpoint for Eligible<M, F>
where
    M: MakeEndpoint,
    F: Fn(&Instance, &M::Service) -> bool,
{
    type Service = M::Service;

    fn make(&self, instance: &Instance) -> M::Service {
        self.make.make(instance)
    }

    fn is_eligible(&self, instance: &Instance, service: &M::Service) -> bool {
        (self.rule)(instance, service) && self.make.is_eligible(instance, service)
    }

    fn still_reaches(&self, made_for: &Instance, now: &Instance) -> bool {
        self.make.still_reaches(made_for, now)
    }
}

impl<M, F> fmt::Debug for Eligible<M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eligible").finish_non_exhaustive()
    }
}

impl From<std::net::SocketAddr> for Instance {
    /// An instance of a service without a name.
    fn from(address: std::net::SocketAddr) -> Self {
        Self::new("", address.ip().to_string(), address.port())
    }
}
