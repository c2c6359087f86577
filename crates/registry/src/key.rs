use crate::{Error, Instance};

/// What one instance is found by.
///
/// ```
/// use gusset_registry::InstanceKey;
///
/// let whoever_has_the_id = InstanceKey::new("cart", "10.0.0.7:80");
/// let only_this_run = whoever_has_the_id.with_incarnation(1_763_740_800_000_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct InstanceKey<'a> {
    /// Name of the service: `name`, or `namespace/name`.
    pub service: &'a str,
    /// Id of the instance.
    pub id: &'a str,
    /// Which run of it, or 0 for whichever is registered.
    pub incarnation: u64,
}

/// How a registered instance looks from a key of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    Same,
    /// The key is of an older run.
    Older,
    /// The key is of a run that is not registered yet.
    Younger,
}

impl<'a> InstanceKey<'a> {
    /// Whichever run of the instance is registered.
    #[must_use]
    pub const fn new(service: &'a str, id: &'a str) -> Self {
        Self { service, id, incarnation: 0 }
    }

    /// Only this run of it.
    #[must_use]
    pub const fn with_incarnation(mut self, incarnation: u64) -> Self {
        self.incarnation = incarnation;
        self
    }

    /// How a key with `self.incarnation` stands to what is registered as `registered`.
    pub(crate) const fn run(self, registered: u64) -> Run {
        if self.incarnation == 0 || self.incarnation == registered {
            Run::Same
        } else if self.incarnation < registered {
            Run::Older
        } else {
            Run::Younger
        }
    }
}

/// A service's full name taken apart: its namespace, which is empty for the default one, and its name there.
///
/// ```
/// use gusset_registry::split_name;
///
/// assert_eq!(split_name("cart"), ("", "cart"));
/// assert_eq!(split_name("staging/cart"), ("staging", "cart"));
/// ```
#[must_use]
pub fn split_name(service: &str) -> (&str, &str) {
    service.split_once('/').unwrap_or(("", service))
}

/// Longest name of a service, namespace, id, tag, version or zone, in bytes.
const NAME: usize = 255;
/// As in Consul: entries of metadata, and bytes of a key and of a value.
const ENTRIES: usize = 64;
const META_KEY: usize = 128;
const META_VALUE: usize = 512;

impl Instance {
    /// Whether a registry takes it; every engine asks.
    ///
    /// | field | has to be |
    /// |---|---|
    /// | `service` | `name` or `namespace/name`, each without blanks and control characters; at most 255 bytes |
    /// | `id` | not empty, without control characters; at most 255 bytes |
    /// | `host` | an IP address, without brackets, or a host name of letters, digits, `-`, `_` and dots; at most 253 bytes |
    /// | `version`, `zone`, `tags` | without control characters; at most 255 bytes each, at most 64 tags |
    /// | `metadata` | at most 64 entries, keys of up to 128 bytes, values of up to 512 |
    ///
    /// So an instance takes at most about 60 KiB.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the field.
    pub fn validate(&self) -> Result<(), Error> {
        if !is_host(&self.host) {
            return Err(invalid("host", &self.host, "is neither an IP address nor a host name"));
        }
        self.check_names()?;
        let labels = self.version.iter().chain(&self.zone).chain(&self.tags);
        for label in labels {
            if label.len() > NAME || label.chars().any(char::is_control) {
                return Err(invalid("version, zone or tag", label, "is too long or not printable"));
            }
        }
        if self.tags.len() > ENTRIES || self.metadata.len() > ENTRIES {
            return Err(invalid("tags or metadata", &self.id, "has more than 64 entries"));
        }
        let too_long = |(key, value): &(&String, &String)| {
            key.is_empty() || key.len() > META_KEY || value.len() > META_VALUE
        };
        match self.metadata.iter().find(too_long) {
            Some((key, _)) => Err(invalid("metadata", key, "has an empty or too long entry")),
            None => Ok(()),
        }
    }

    fn check_names(&self) -> Result<(), Error> {
        let (namespace, name) = split_name(&self.service);
        let bad = |c: char| c.is_control() || c.is_whitespace() || c == '/';
        let wrong_name = name.is_empty() || name.contains(bad) || self.service.len() > NAME;
        if wrong_name || self.service.starts_with('/') || namespace.contains(bad) {
            return Err(invalid("service", &self.service, "is not a name or namespace/name"));
        }
        if self.id.is_empty() || self.id.len() > NAME || self.id.chars().any(char::is_control) {
            return Err(invalid("id", &self.id, "is empty, too long or not printable"));
        }
        Ok(())
    }
}

fn invalid(field: &'static str, value: &str, reason: &'static str) -> Error {
    // What was sent may be long; its beginning tells as much.
    Error::Invalid { field, value: value.chars().take(80).collect(), reason }
}

fn is_host(host: &str) -> bool {
    // A scope (`fe80::1%eth0`) belongs to the machine, not to the address.
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    if host.contains([':', '%']) {
        return address.parse::<std::net::Ipv6Addr>().is_ok()
            && host.chars().all(|c| c.is_ascii_graphic());
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(allowed)
    };
    name.len() <= 253 && name.split('.').all(is_label) && !is_broken_address(name)
}

/// Nothing but digits and dots, and no address: "10.0.0" or "300.1.1.1" is a slip, no name.
fn is_broken_address(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && host.parse::<std::net::Ipv4Addr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_host(host: &str) -> Instance {
        Instance::new("cart", host, 80)
    }

    #[test]
    fn addresses_and_host_names_are_hosts() {
        let hosts =
            ["10.0.0.7", "::1", "fe80::1%eth0", "h", "cart.internal", "a-b.c_d.", "7up.example"];
        for host in hosts {
            assert!(with_host(host).validate().is_ok(), "{host}");
        }
    }

    #[test]
    fn an_impossible_host_is_refused_and_named() {
        let long = "a.".repeat(127) + "b";
        let hosts = [
            "",
            " ",
            "a b",
            "[::1]",
            "http://h",
            "h:80",
            "h/",
            "a..b",
            ".",
            "10.0.0",
            "300.1.1.1",
            "ü.example",
            "::g",
            "a%b",
            "h\n",
            &long,
        ];
        for host in hosts {
            let error = with_host(host).validate().unwrap_err();
            assert!(matches!(error, Error::Invalid { field: "host", .. }), "{host:?}: {error}");
        }
        let error = with_host("a b").validate().unwrap_err().to_string();
        assert_eq!(error, "host \"a b\" is neither an IP address nor a host name");
    }

    #[test]
    fn a_service_has_a_name_and_at_most_one_namespace() {
        for (service, valid) in [
            ("cart", true),
            ("staging/cart", true),
            ("", false),
            ("/cart", false),
            ("staging/", false),
            ("a/b/c", false),
            ("a cart", false),
        ] {
            let instance = Instance::new(service, "h", 80);
            assert_eq!(instance.validate().is_ok(), valid, "{service:?}");
        }
        let staged = Instance::new("cart", "h", 80).in_namespace("staging");
        assert_eq!(&*staged.in_namespace("test").service, "test/cart");
    }

    #[test]
    fn what_an_instance_says_of_itself_is_bounded() {
        let entries = |n| (0..n).map(|n: u32| (n.to_string(), String::new()));
        let mut instance = with_host("h");
        instance.metadata = entries(64).collect();
        assert!(instance.validate().is_ok());
        instance.metadata = entries(65).collect();
        assert!(instance.validate().is_err());
        assert!(with_host("h").with_metadata("k", "v".repeat(513)).validate().is_err());
        assert!(with_host("h").with_metadata("", "v").validate().is_err());
        assert!(with_host("h").with_tag("t\n").validate().is_err());
        assert!(with_host("h").with_id("").validate().is_err());
        assert!(with_host("h").with_id("i".repeat(256)).validate().is_err());
    }

    #[test]
    fn a_key_without_incarnation_means_any_run() {
        let key = InstanceKey::new("s", "a");
        assert_eq!([key.run(0), key.run(9)], [Run::Same, Run::Same]);
        let key = key.with_incarnation(5);
        assert_eq!([key.run(4), key.run(5), key.run(6)], [Run::Younger, Run::Same, Run::Older]);
    }
}
