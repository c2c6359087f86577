//! The registry in which others are found.

use std::{path::Path, sync::Arc};

use gusset_registry::{Registry, RemotePolicy, RemoteRegistry, RemoteTls};

use super::options::Sidecar;

/// How the URL of a cluster of etcd begins, behind which its members stand: `etcd://10.0.0.1:2379,10.0.0.2:2379`.
const ETCD: &str = "etcd://";

/// Follows it from now on; nobody has to be there yet.
pub(super) fn registry(options: &Sidecar) -> Result<Arc<dyn Registry>, String> {
    if let Some(members) = options.registry.strip_prefix(ETCD) {
        return etcd(options, members);
    }
    let mut policy = RemotePolicy::default().ttl(options.ttl);
    if let Some(token) = &options.token {
        policy = policy.token(token.as_str());
    }
    if let Some(file) = &options.authority {
        let tls = RemoteTls::new(&read(file)?);
        policy = policy.tls(tls.map_err(|error| format!("{}: {error}", file.display()))?);
    }
    let registry = RemoteRegistry::new(&options.registry, policy).map_err(|error| wrong(&error))?;
    Ok(Arc::new(registry))
}

/// A URL of where the registry is reached, for who wants to know the way there.
pub(super) fn reached_at(registry: &str) -> String {
    match registry.strip_prefix(ETCD) {
        Some(members) => format!("http://{}", members.split(',').next().unwrap_or_default()),
        None => registry.to_owned(),
    }
}

#[cfg(feature = "etcd")]
fn etcd(options: &Sidecar, members: &str) -> Result<Arc<dyn Registry>, String> {
    use gusset_registry::{EtcdPolicy, EtcdRegistry, EtcdTls};

    let mut policy = EtcdPolicy::default().ttl(options.ttl);
    if let Some(token) = &options.token {
        let (user, password) =
            token.split_once(':').ok_or("--token: for etcd it is USER:PASSWORD")?;
        policy = policy.credentials(user, password);
    }
    if let Some(file) = &options.authority {
        policy = policy.tls(EtcdTls::new(read(file)?));
    }
    let registry =
        EtcdRegistry::spawn(members.split(','), policy).map_err(|error| wrong(&error))?;
    Ok(Arc::new(registry))
}

#[cfg(not(feature = "etcd"))]
fn etcd(_: &Sidecar, _: &str) -> Result<Arc<dyn Registry>, String> {
    Err("--registry: this gusset was built without the feature etcd".into())
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn wrong(error: &dyn std::error::Error) -> String {
    format!("--registry: {}", crate::registry::with_cause(error))
}
