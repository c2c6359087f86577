use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU32,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{InstanceKey, LastSeen};

/// One running copy of a service, and where it is reached.
///
/// Two instances are equal when they say the same of themselves; when they were last heard of is no part of that.
///
/// ```
/// use gusset_registry::Instance;
///
/// let instance = Instance::new("cart", "10.0.0.7", 8080).with_zone("eu-1").with_metadata("canary", "yes");
/// assert_eq!(&*instance.id, "10.0.0.7:8080");
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// Unique among the instances of its service. [`Instance::new`] takes the authority, so that a process that
    /// is started again replaces itself.
    pub id: Arc<str>,
    /// Name of the service: `name`, or `namespace/name`.
    pub service: Arc<str>,
    /// Host name or IP address, an IPv6 one without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whatever else callers should know.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// In a snapshot: what the registry thinks of it. In a registration: what it says of itself.
    #[serde(default)]
    pub health: Health,
    /// Version of the program.
    #[serde(default)]
    pub version: Option<String>,
    /// Failure domain, for instance a rack or an availability zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// Share of the traffic relative to the other instances. Default 1.
    #[serde(default = "one")]
    pub weight: NonZeroU32,
    /// Labels without a value.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// Which run of the instance this is: of two registrations of one id the higher number is the younger, and what the older one says
    /// later is refused. 0, the default, is of no particular run, and neither refuses nor is refused.
    /// A [`Registration`](crate::Registration) states the time at which it began.
    #[serde(default)]
    pub incarnation: u64,
    /// Whether its health comes from elsewhere than its own heartbeats, such as [active checks](crate::MemoryRegistry::report), so that
    /// its silence means nothing.
    #[serde(default)]
    pub checked: bool,
    /// Whether the health is what was last known rather than what was heard: the registry was restarted, or so many of the service fell
    /// silent at once that it doubts its own ears. Such an instance takes calls like any other of its health.
    /// Set by the registry; what a registration says here is ignored.
    #[serde(default)]
    pub suspect: bool,
    /// When the registry last heard of it. Set by the registry; what a registration says here is ignored.
    #[serde(default, rename = "last_seen_ms_ago")]
    pub last_seen: LastSeen,
}

const fn one() -> NonZeroU32 {
    NonZeroU32::MIN
}

impl Instance {
    /// An instance of `service` at `host`:`port`, which is its id as well, with health [`Health::Unknown`].
    pub fn new(service: impl Into<Arc<str>>, host: impl Into<String>, port: u16) -> Self {
        let host = host.into();
        Self {
            id: authority(&host, port).into(),
            service: service.into(),
            host,
            port,
            metadata: BTreeMap::new(),
            health: Health::Unknown,
            version: None,
            zone: None,
            weight: one(),
            tags: BTreeSet::new(),
            incarnation: 0,
            checked: false,
            suspect: false,
            last_seen: LastSeen::default(),
        }
    }

    /// An instance of `service` at this address, as [`Instance::new`].
    ///
    /// ```
    /// # use gusset_registry::Instance;
    /// let listening_at = "[::1]:8080".parse().unwrap();
    /// assert_eq!(Instance::at("cart", listening_at), Instance::new("cart", "::1", 8080));
    /// ```
    pub fn at(service: impl Into<Arc<str>>, address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => address.ip().to_string(),
        };
        Self::new(service, host, address.port())
    }

    /// The same under another id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.id = id.into();
        self
    }

    /// The same with another health.
    #[must_use]
    pub const fn with_health(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// The same with this entry in its metadata.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The same in this zone.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// The same with this version.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// The same with this weight.
    #[must_use]
    pub const fn with_weight(mut self, weight: NonZeroU32) -> Self {
        self.weight = weight;
        self
    }

    /// The same with this tag.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.insert(tag.into());
        self
    }

    /// The same as this run of the instance; see [`Instance::incarnation`].
    #[must_use]
    pub const fn with_incarnation(mut self, incarnation: u64) -> Self {
        self.incarnation = incarnation;
        self
    }

    /// The same with a health that does not come from its own heartbeats; see [`Instance::checked`].
    #[must_use]
    pub const fn with_checks(mut self) -> Self {
        self.checked = true;
        self
    }

    /// The same of the service with this name in `namespace`.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        let (_, name) = crate::split_name(&self.service);
        self.service = format!("{namespace}/{name}").into();
        self
    }

    /// What a registry finds it by.
    #[must_use]
    pub fn key(&self) -> InstanceKey<'_> {
        InstanceKey { service: &self.service, id: &self.id, incarnation: self.incarnation }
    }

    /// `host:port` as it stands in a URL, an IPv6 address in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// Whether a connection made for `self` can go on serving `other`: the same run of the same instance, at the same place.
    pub(crate) fn is_reached_like(&self, other: &Self) -> bool {
        self.port == other.port && self.host == other.host && self.incarnation == other.incarnation
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl PartialEq for Instance {
    fn eq(&self, other: &Self) -> bool {
        // Taken apart, so that a new field cannot be forgotten here.
        let Self {
            id,
            service,
            host,
            port,
            metadata,
            health,
            version,
            zone,
            weight,
            tags,
            incarnation,
            checked,
            suspect,
            last_seen: _,
        } = self;
        *id == other.id
            && *service == other.service
            && *host == other.host
            && *port == other.port
            && *metadata == other.metadata
            && *health == other.health
            && *version == other.version
            && *zone == other.zone
            && *weight == other.weight
            && *tags == other.tags
            && *incarnation == other.incarnation
            && *checked == other.checked
            && *suspect == other.suspect
    }
}

impl Eq for Instance {}

/// Whether an instance can take calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Registered, and nothing heard of it since. Takes no calls.
    #[default]
    Unknown,
    /// Heard of within the TTL. Takes calls.
    Healthy,
    /// Silent for longer than the TTL. Takes no calls until it is heard of again.
    Unhealthy,
    /// About to leave. Takes no new calls, finishes those it has.
    Draining,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_instance_comes_back_from_json_as_it_was() {
        let mut instance = Instance::new("cart", "10.0.0.7", 8080)
            .with_id("cart-1")
            .with_health(Health::Draining)
            .with_metadata("canary", "yes")
            .with_version("1.2.3")
            .with_zone("eu-1")
            .with_weight(NonZeroU32::new(7).unwrap())
            .with_tag("blue");
        instance.last_seen = LastSeen::told(Duration::ZERO);
        tokio::time::advance(Duration::from_secs(3)).await;

        let json = serde_json::to_value(&instance).unwrap();
        assert_eq!(json["last_seen_ms_ago"], 3_000);
        assert_eq!(json["health"], "draining");
        let back: Instance = serde_json::from_value(json).unwrap();
        assert_eq!(back, instance);
        assert_eq!(back.last_seen.age(), Some(Duration::from_secs(3)));
    }

    #[test]
    fn all_but_name_and_place_may_be_left_out_and_unknown_fields_do_not_hurt() {
        let json = r#"{"id": "a", "service": "cart", "host": "h", "port": 1, "since": "later"}"#;
        let instance: Instance = serde_json::from_str(json).unwrap();
        assert_eq!(instance, Instance::new("cart", "h", 1).with_id("a"));
        assert_eq!(instance.last_seen.age(), None);
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        assert_eq!(Instance::new("cart", "::1", 80).authority(), "[::1]:80");
    }

    #[test]
    fn an_address_is_a_host_and_a_port_with_its_scope() {
        for (address, host) in
            [("10.0.0.7:80", "10.0.0.7"), ("[::1]:80", "::1"), ("[fe80::1%3]:80", "fe80::1%3")]
        {
            let instance = Instance::at("cart", address.parse().unwrap());
            assert_eq!((&*instance.host, instance.port, &*instance.id), (host, 80, address));
            instance.validate().unwrap();
        }
    }

    #[test]
    fn an_age_beyond_the_clock_does_not_overflow() {
        let json = format!(
            r#"{{"id":"a","service":"s","host":"h","port":1,"last_seen_ms_ago":{}}}"#,
            u64::MAX
        );
        let instance: Instance = serde_json::from_str(&json).unwrap();
        assert!(instance.last_seen.age().is_some());
    }
}
