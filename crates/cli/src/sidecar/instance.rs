//! Who the app is for others.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};

use gusset_registry::Instance;

use super::{options::Sidecar, registry::reached_at};

/// What the registry is told of the app.
pub(super) fn instance(options: &Sidecar, inbound: SocketAddr) -> Result<Instance, String> {
    let (host, port) = match &options.advertise {
        Some((host, port)) => (host.clone(), port.unwrap_or(inbound.port())),
        None if !inbound.ip().is_unspecified() => (inbound.ip().to_string(), inbound.port()),
        None => (seen_from(&reached_at(&options.registry))?, inbound.port()),
    };
    let labels = &options.labels;
    let mut instance = Instance::new(options.service.as_str(), host, port);
    if let Some(id) = &labels.id {
        instance = instance.with_id(id.as_str());
    }
    if let Some(zone) = &labels.zone {
        instance = instance.with_zone(zone);
    }
    if let Some(version) = &labels.version {
        instance = instance.with_version(version);
    }
    instance = labels.tags.iter().fold(instance, Instance::with_tag);
    instance = labels.meta.iter().fold(instance, |of, (key, value)| of.with_metadata(key, value));
    instance.validate().map_err(|error| error.to_string())?;
    Ok(instance)
}

/// The address of this machine that the registry sees. Nothing is sent to find out.
fn seen_from(registry: &str) -> Result<String, String> {
    let unknown = || {
        format!(
            "it is not known by which address others reach this machine, for {registry} is not reached: say --advertise HOST"
        )
    };
    let uri: http::Uri = registry.parse().map_err(|_| unknown())?;
    let host = uri.host().ok_or_else(unknown)?.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let reached = (host, port).to_socket_addrs().map_err(|_| unknown())?.find_map(|to| {
        let any: SocketAddr =
            if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    });
    reached.ok_or_else(unknown)
}
