use std::{collections::BTreeSet, fmt, net::SocketAddr, sync::Arc};

use gusset_registry::{Fleet, Instance};

use crate::upstream::Host;

/// Where a route leads. Routes to equal upstreams share its balancer and its circuits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream(pub(crate) Place, Subset);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Service(Arc<str>),
    Fixed(Vec<SocketAddr>),
    Hosts(Vec<Host>),
}

impl Upstream {
    /// Whether it names a service, or an address.
    pub(crate) fn leads_somewhere(&self) -> bool {
        match &self.0 {
            Place::Service(name) => !name.is_empty(),
            // These say nothing of themselves, so a part of them is nobody.
            Place::Fixed(addresses) => !addresses.is_empty() && self.1.0.is_empty(),
            Place::Hosts(hosts) => !hosts.is_empty() && self.1.0.is_empty(),
        }
    }

    /// The instances of this service in the registry.
    pub fn service(name: impl Into<Arc<str>>) -> Self {
        Self(Place::Service(name.into()), Subset::default())
    }

    /// These addresses, which count as healthy.
    pub fn fixed(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(Place::Fixed(addresses.into_iter().collect()), Subset::default())
    }

    /// These hosts, each with a port: names, or addresses. Names are looked up by the system when the gateway is built, and then every 5 s; each of their addresses is an instance, which counts as
    /// healthy. Of a host with addresses of IPv4 and IPv6, those of IPv4 are taken; of one with more than 256 addresses, 256.
    ///
    /// While a name cannot be looked up, what it was last goes on. The look-ups are a task of the runtime in which the gateway is built, and end with the last gateway that leads there.
    ///
    /// Towards the instance it is the name that stands in `Host`, and in whose name the certificate of a TLS connection must be.
    ///
    /// ```
    /// use gusset_gateway::{Route, Upstream};
    ///
    /// let orders = Route::new("/orders/{*rest}").to(Upstream::hosts([("orders.internal", 8080)]));
    /// ```
    pub fn hosts<N: Into<Box<str>>>(hosts: impl IntoIterator<Item = (N, u16)>) -> Self {
        let host = |(name, port): (N, u16)| Host { name: name.into(), port };
        Self(Place::Hosts(hosts.into_iter().map(host).collect()), Subset::default())
    }
}

/// Which instances of a service: those of which all of these hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Subset(BTreeSet<Says>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Says {
    Tag(Box<str>, bool),
    Version(Box<str>),
    Metadata(Box<str>, Box<str>),
}

impl Says {
    fn holds(&self, instance: &Instance) -> bool {
        match self {
            Self::Tag(tag, there) => instance.tags.contains(&**tag) == *there,
            Self::Version(version) => instance.version.as_deref() == Some(&**version),
            Self::Metadata(key, value) => {
                instance.metadata.get(&**key).is_some_and(|found| **found == **value)
            }
        }
    }
}

/// Some of the instances of a service, which are an upstream of their own.
impl Upstream {
    /// Only instances with this tag.
    #[must_use]
    pub fn with_tag(self, tag: impl Into<Box<str>>) -> Self {
        self.only(Says::Tag(tag.into(), true))
    }

    /// Only instances without this tag.
    #[must_use]
    pub fn without_tag(self, tag: impl Into<Box<str>>) -> Self {
        self.only(Says::Tag(tag.into(), false))
    }

    /// Only instances of this version.
    #[must_use]
    pub fn with_version(self, version: impl Into<Box<str>>) -> Self {
        self.only(Says::Version(version.into()))
    }

    /// Only instances whose metadata says `value` of `key`.
    #[must_use]
    pub fn with_metadata(self, key: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        self.only(Says::Metadata(key.into(), value.into()))
    }

    fn only(mut self, says: Says) -> Self {
        self.1.0.insert(says);
        self
    }

    /// `fleet`, without the instances that it does not speak of.
    pub(crate) fn narrow(&self, fleet: Fleet) -> Fleet {
        let subset = self.1.clone();
        if subset.0.is_empty() {
            return fleet;
        }
        fleet.within(move |instance| subset.0.iter().all(|says| says.holds(instance)))
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, says) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { " with " } else { " and " })?;
            match says {
                Says::Tag(tag, true) => write!(f, "tag {tag}")?,
                Says::Tag(tag, false) => write!(f, "no tag {tag}")?,
                Says::Version(version) => write!(f, "version {version}")?,
                Says::Metadata(key, value) => write!(f, "{key}={value}")?,
            }
        }
        Ok(())
    }
}

impl From<&str> for Upstream {
    fn from(service: &str) -> Self {
        Self::service(service)
    }
}

impl From<String> for Upstream {
    fn from(service: String) -> Self {
        Self::service(service)
    }
}

/// The name of the service, or the addresses, and which part of them.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Service(name) => f.write_str(name)?,
            Place::Fixed(addresses) => {
                for (at, address) in addresses.iter().enumerate() {
                    let separator = if at == 0 { "" } else { "," };
                    write!(f, "{separator}{address}")?;
                }
            }
            Place::Hosts(hosts) => {
                for (at, Host { name, port }) in hosts.iter().enumerate() {
                    let separator = if at == 0 { "" } else { "," };
                    write!(f, "{separator}{name}:{port}")?;
                }
            }
        }
        self.1.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_service_is_an_upstream_of_its_own() {
        let canary = Upstream::service("orders").with_tag("canary").with_metadata("side", "green");
        let again = Upstream::service("orders").with_metadata("side", "green").with_tag("canary");
        assert_eq!(canary, again);
        assert_ne!(canary, Upstream::service("orders"));
        assert_eq!(canary.to_string(), "orders with tag canary and side=green");
        let others = Upstream::service("orders").without_tag("canary").with_version("2");
        assert_eq!(others.to_string(), "orders with no tag canary and version 2");
        let fixed = Upstream::fixed(["10.0.0.1:80".parse().unwrap()]);
        assert!(fixed.leads_somewhere() && !fixed.with_tag("canary").leads_somewhere());
    }
}
