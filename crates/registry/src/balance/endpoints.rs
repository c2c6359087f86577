//! The endpoints of a balancer: what follows from a snapshot, and what stays from one snapshot to the next.

use std::{
    cell::OnceCell,
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use gusset_call::Tried;

use crate::{
    Candidates, Instance, MakeEndpoint, Pick, Snapshot,
    balance::{candidates::Member, load::Load},
};

/// How an instance fares in the hands of one balancer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Endpoint {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Calls under way.
    pub pending: usize,
    /// Share of recent calls that failed, from 0 to 1; half of it is forgotten every 5 s.
    pub failure_ratio: f64,
}

/// The healthy instances of one snapshot, with their services.
pub(crate) struct Endpoints<S> {
    pub(crate) version: u64,
    members: Box<[Member]>,
    /// In the order of `members`.
    connections: Box<[Arc<Connection<S>>]>,
    /// Goes over to the next set where that has the same instances.
    turns: Arc<AtomicUsize>,
}

/// The service of an instance, made when it is first needed.
pub(crate) struct Connection<S> {
    service: OnceLock<S>,
    load: Arc<Load>,
    /// Its readiness failed: the next set has another one.
    broken: AtomicBool,
}

impl<S> Endpoints<S> {
    pub(crate) fn empty() -> Self {
        Self { version: 0, members: [].into(), connections: [].into(), turns: Arc::default() }
    }

    /// The set for `snapshot`. What `self` has and is still good stays.
    pub(crate) fn next(&self, snapshot: &Snapshot) -> Self {
        let places: HashMap<&str, usize> =
            self.members.iter().enumerate().map(|(place, m)| (&*m.instance.id, place)).collect();
        let (members, connections): (Vec<_>, Vec<_>) = snapshot
            .healthy()
            .map(|instance| {
                let kept = places.get(&*instance.id).and_then(|&place| self.kept(place, instance));
                let connection = kept.unwrap_or_else(|| Arc::new(Connection::new()));
                let load = connection.load.clone();
                (Member { instance: instance.clone(), load }, connection)
            })
            .unzip();
        let same = |(a, b): (&Member, &Member)| a.instance.id == b.instance.id;
        let unchanged =
            members.len() == self.members.len() && members.iter().zip(&self.members).all(same);
        let turns = if unchanged {
            self.turns.clone()
        } else {
            Arc::new(AtomicUsize::new(rand::random::<u16>().into()))
        };
        Self {
            version: snapshot.version(),
            members: members.into(),
            connections: connections.into(),
            turns,
        }
    }

    fn kept(&self, place: usize, instance: &Instance) -> Option<Arc<Connection<S>>> {
        let (member, connection) = (&self.members[place], &self.connections[place]);
        if !member.instance.is_reached_like(instance) {
            return None;
        }
        if connection.broken.load(Relaxed) {
            // Another service, but the same endpoint: its failures still count.
            return Some(Arc::new(Connection {
                load: connection.load.clone(),
                ..Connection::new()
            }));
        }
        Some(connection.clone())
    }

    /// Whether `next` would change nothing.
    pub(crate) fn is_good_for(&self, snapshot: &Snapshot) -> bool {
        self.version >= snapshot.version()
            && !self.connections.iter().any(|connection| connection.broken.load(Relaxed))
    }

    pub(crate) fn list(&self) -> Vec<Endpoint> {
        let endpoint = |member: &Member| Endpoint {
            instance: member.instance.clone(),
            pending: member.load.pending(),
            failure_ratio: member.load.failure_ratio(),
        };
        self.members.iter().map(endpoint).collect()
    }

    /// Picks an endpoint for a call, notes it in `tried`, and begins the call.
    pub(crate) fn begin<M, P, Req>(
        &self,
        make: &M,
        pick: &P,
        request: &Req,
        tried: Option<&Tried>,
    ) -> Option<(S, InFlight<S>)>
    where
        M: MakeEndpoint<Service = S>,
        P: Pick<Req>,
        S: Clone,
    {
        let eligible = |place: usize| {
            let instance = &*self.members[place].instance;
            make.is_eligible(instance, self.connections[place].service(make, instance))
        };
        let untried = |place: usize| {
            !tried.is_some_and(|tried| tried.contains(&self.members[place].instance.id))
        };
        let turn = OnceCell::new();
        let pick = |may_pick: &dyn Fn(usize) -> bool| {
            let (members, turns) = (&*self.members, &*self.turns);
            let candidates = Candidates { members, turns, turn: &turn, may_pick };
            pick.pick(request, &candidates).filter(|&place| place < candidates.len())
        };
        if self.members.is_empty() {
            return None;
        }
        let place = pick(&|place| untried(place) && eligible(place))
            .or_else(|| pick(&eligible))
            .or_else(|| pick(&|_| true))?;
        let (member, connection) = (&self.members[place], &self.connections[place]);
        if let Some(tried) = tried {
            tried.insert(member.instance.id.clone());
        }
        let service = connection.service(make, &member.instance).clone();
        Some((service, InFlight::begin(connection.clone())))
    }
}

impl<S> Connection<S> {
    fn new() -> Self {
        Self {
            service: OnceLock::new(),
            load: Arc::new(Load::new()),
            broken: AtomicBool::new(false),
        }
    }

    fn service<M: MakeEndpoint<Service = S>>(&self, make: &M, instance: &Instance) -> &S {
        if let Some(service) = self.service.get() {
            return service;
        }
        // Not within `get_or_init`, which would make other callers wait for the maker's code.
        let made = make.make(instance);
        self.service.get_or_init(|| made)
    }
}

/// A call under way. Dropping it takes the call off the endpoint's load.
pub(crate) struct InFlight<S> {
    connection: Arc<Connection<S>>,
    /// The endpoint's code is running, so a panic is that of the endpoint.
    at_work: bool,
}

impl<S> InFlight<S> {
    fn begin(connection: Arc<Connection<S>>) -> Self {
        connection.load.begin();
        Self { connection, at_work: false }
    }

    /// Marks it while the endpoint's code runs.
    pub(crate) const fn at_work(mut self, at_work: bool) -> Self {
        self.at_work = at_work;
        self
    }

    pub(crate) fn settle(mut self, failed: bool) {
        self.at_work = false;
        let load = &self.connection.load;
        if failed { load.failed() } else { load.succeeded() }
    }

    /// The service's readiness failed, so the service must not be used any more.
    pub(crate) fn broke(self) {
        self.connection.broken.store(true, Relaxed);
        self.settle(true);
    }
}

impl<S> Drop for InFlight<S> {
    fn drop(&mut self) {
        self.connection.load.end();
        if self.at_work && std::thread::panicking() {
            self.connection.load.failed();
        }
    }
}
