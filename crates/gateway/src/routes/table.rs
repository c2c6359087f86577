//! Which route takes a request: host, then path, then method and conditions.

use std::{borrow::Cow, collections::HashMap};

use http::{HeaderMap, Method};

use super::{
    condition::Test,
    methods::{Allowed, Methods},
    paths::Paths,
    pattern::{Captures, Pattern},
};

/// What a route is found by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'r> {
    /// It may have a port, which is not looked at.
    pub(crate) host: &'r str,
    /// In its normal form.
    pub(crate) path: &'r str,
    pub(crate) method: &'r Method,
    pub(crate) query: Option<&'r str>,
    /// `None` if they are not known yet, as in a preflight.
    pub(crate) headers: Option<&'r HeaderMap>,
}

/// What the table says of a request.
#[derive(Debug, PartialEq)]
pub(crate) enum Lookup {
    /// The route of this number, and what its template's parameters stand for.
    Found(usize, Captures),
    /// The path is known, with other methods.
    WrongMethod(Allowed),
    Unknown,
}

/// A route that is to be added.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) methods: Methods,
    /// All of them must hold.
    pub(crate) conditions: Vec<Test>,
    pub(crate) rank: i32,
    pub(crate) number: usize,
}

/// A route with the same host and path takes the same requests, and nothing says which goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken;

/// Routes by host and path, built once. Of the hosts that a request fits, the more specific ones go first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    exact: HashMap<String, Hosted>,
    /// By what follows `*.`.
    below: HashMap<String, Hosted>,
    any: Hosted,
}

type Hosted = Paths<Entries>;

/// The routes that share host and path, those that go first first.
#[derive(Clone, Debug, Default)]
struct Entries(Vec<Entry>);

impl Table {
    /// Adds a route.
    pub(crate) fn insert(
        &mut self,
        host: Option<&str>,
        pattern: &Pattern,
        entry: Entry,
    ) -> Result<(), Taken> {
        let paths = match host.map(|host| (host, host.strip_prefix("*."))) {
            None => &mut self.any,
            Some((_, Some(parent))) => self.below.entry(host_key(parent).into()).or_default(),
            Some((host, None)) => self.exact.entry(host_key(host).into()).or_default(),
        };
        paths.at(pattern).insert(entry)
    }

    /// Finds the route of a request.
    pub(crate) fn find(&self, asked: &Asked<'_>) -> Lookup {
        let mut search = Search { asked, found: None, allowed: Allowed::default() };
        // Most tables name no host, and then its spelling is of no interest.
        if !self.exact.is_empty() || !self.below.is_empty() {
            let host = host_key(asked.host);
            if self.exact.get(&*host).is_some_and(|paths| search.of(paths)) {
                return search.result();
            }
            if !self.below.is_empty() {
                for (dot, _) in host.match_indices('.') {
                    if self.below.get(&host[dot + 1..]).is_some_and(|paths| search.of(paths)) {
                        return search.result();
                    }
                }
            }
        }
        search.of(&self.any);
        search.result()
    }
}

struct Search<'a, 'r> {
    asked: &'a Asked<'r>,
    found: Option<(usize, Captures)>,
    allowed: Allowed,
}

impl Search<'_, '_> {
    /// Whether the route is among these.
    fn of(&mut self, paths: &Hosted) -> bool {
        let Self { asked, found, allowed } = self;
        paths.find(asked.path, &mut |entries, captures| {
            for entry in &entries.0 {
                // A path whose conditions are not met is not there, with any method.
                if !entry.conditions.iter().all(|test| test.holds(asked.headers, asked.query)) {
                    continue;
                }
                if entry.methods.contains(asked.method) {
                    *found = Some((entry.number, *captures));
                    return true;
                }
                allowed.add(&entry.methods);
            }
            false
        })
    }

    fn result(self) -> Lookup {
        match self.found {
            Some((number, captures)) => Lookup::Found(number, captures),
            None if self.allowed.is_empty() => Lookup::Unknown,
            None => Lookup::WrongMethod(self.allowed),
        }
    }
}

impl Entries {
    fn insert(&mut self, entry: Entry) -> Result<(), Taken> {
        if self.0.iter().any(|other| other.collides(&entry)) {
            return Err(Taken);
        }
        let after = |other: &Entry| other.precedence() >= entry.precedence();
        let place = self.0.partition_point(after);
        self.0.insert(place, entry);
        Ok(())
    }
}

impl Entry {
    fn precedence(&self) -> (i32, usize) {
        (self.rank, self.conditions.len())
    }

    /// Whether chance would decide which of the two takes some request, or one of them would never take any.
    fn collides(&self, other: &Self) -> bool {
        let (first, second) =
            if self.precedence() >= other.precedence() { (self, other) } else { (other, self) };
        if first.precedence() > second.precedence() {
            return first.methods.covers(&second.methods)
                && first.conditions.iter().all(|test| second.conditions.contains(test));
        }
        let exclude = |one: &Test| second.conditions.iter().any(|another| one.excludes(another));
        first.methods.overlaps(&second.methods) && !first.conditions.iter().any(exclude)
    }
}

/// Whether `host` is a name, an address, or `*.` and a name; with a port, which means nothing, or without.
pub(crate) fn is_host_pattern(host: &str) -> bool {
    crate::host::is_host(host.strip_prefix("*.").unwrap_or(host))
}

/// Without port and final dot, in lower case.
fn host_key(host: &str) -> Cow<'_, str> {
    let name = without_port(host);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return name.to_ascii_lowercase().into();
    }
    name.into()
}

pub(crate) fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        // The colons of an IPv6 address stand before its bracket.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests;
