//! What a process says about itself beside each thing that it exports.

use std::{fmt, sync::Arc};

use rand::RngExt;

use super::{InitError, environment::Environment};

/// Attributes of the process by OpenTelemetry's conventions.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    /// `service.name`.
    pub(super) service: Arc<str>,
    /// The others.
    pub(super) attributes: Vec<(String, String)>,
}

impl Resource {
    /// What the program says (`service`, `given`), and what the environment says, which wins: it is the operator's.
    pub(super) fn new(
        service: Arc<str>,
        given: &[(String, String)],
        environment: &Environment,
    ) -> Result<Self, InitError> {
        let mut attributes: Vec<(String, String)> = vec![
            ("telemetry.sdk.name".into(), "gusset".into()),
            ("telemetry.sdk.language".into(), "rust".into()),
            ("telemetry.sdk.version".into(), env!("CARGO_PKG_VERSION").into()),
            ("service.instance.id".into(), random_uuid()),
        ];
        attributes.extend(host(environment).map(|host| ("host.name".to_owned(), host)));
        let mut this = Self { service, attributes };
        for (key, value) in given {
            this.set(key, value);
        }
        for (key, value) in environment.pairs("OTEL_RESOURCE_ATTRIBUTES")? {
            this.set(&key, &value);
        }
        if let Some(name) = environment.get("OTEL_SERVICE_NAME") {
            this.service = name.into();
        }
        Ok(this)
    }

    fn set(&mut self, key: &str, value: &str) {
        if key == "service.name" {
            self.service = value.into();
            return;
        }
        match self.attributes.iter_mut().find(|(present, _)| present == key) {
            Some((_, present)) => value.clone_into(present),
            None => self.attributes.push((key.to_owned(), value.to_owned())),
        }
    }
}

/// The name of this machine, or of the container.
fn host(environment: &Environment) -> Option<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let kernel = kernel.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    kernel.or_else(|| environment.get("HOSTNAME"))
}

/// As the conventions want it for an instance that has no other name: random, of version 4.
fn random_uuid() -> String {
    struct Hex(u128);
    impl fmt::Display for Hex {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let id = self.0;
            write!(
                f,
                "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
                id >> 96,
                (id >> 80) & 0xffff,
                (id >> 64) & 0xfff,
                (id >> 48) & 0x3fff | 0x8000,
                id & 0xffff_ffff_ffff
            )
        }
    }
    Hex(rand::rng().random()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Resource {
        let given = [("service.version".to_owned(), "1".to_owned())];
        Resource::new("orders".into(), &given, &Environment::of(variables.iter().copied())).unwrap()
    }

    fn get<'a>(resource: &'a Resource, key: &str) -> Option<&'a str> {
        let found = resource.attributes.iter().find(|(present, _)| present == key);
        found.map(|(_, value)| &**value)
    }

    #[test]
    fn a_process_says_who_it_is() {
        let resource = of(&[]);
        assert_eq!(&*resource.service, "orders");
        assert_eq!(get(&resource, "telemetry.sdk.language"), Some("rust"));
        assert_eq!(get(&resource, "service.version"), Some("1"));
        let id = get(&resource, "service.instance.id").unwrap();
        assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
        assert_ne!(Some(id), get(&of(&[]), "service.instance.id"));
    }

    #[test]
    fn the_operator_wins_over_the_program() {
        let attributes = "service.name=cart,service.version=2,team=a%2Cb,service.instance.id=i1";
        let resource = of(&[("OTEL_RESOURCE_ATTRIBUTES", attributes)]);
        assert_eq!(&*resource.service, "cart");
        assert_eq!(get(&resource, "service.version"), Some("2"));
        assert_eq!(get(&resource, "team"), Some("a,b"));
        assert_eq!(get(&resource, "service.instance.id"), Some("i1"));
        let named = of(&[("OTEL_RESOURCE_ATTRIBUTES", attributes), ("OTEL_SERVICE_NAME", "shop")]);
        assert_eq!(&*named.service, "shop");
    }
}
