//! The instances behind the names of hosts, which are looked up again and again.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use gusset_registry::{Health, Instance, Publisher, Watch};
use tokio::{
    net::lookup_host,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

/// How long an answer is taken for true. The system does not say how long it is; the name servers of containers and clusters say 5 s to 30 s.
pub(super) const AGAIN: Duration = Duration::from_secs(5);

/// A look-up that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(5);

/// Addresses of one name; more are left out.
pub(super) const MOST: usize = 256;

/// A host, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    pub(crate) name: Box<str>,
    pub(crate) port: u16,
}

/// Looks up until it is dropped.
#[derive(Debug)]
pub(super) struct LookingUp(AbortHandle);

impl Drop for LookingUp {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks the system.
pub(super) async fn by_system(host: Host) -> io::Result<Vec<IpAddr>> {
    let found = lookup_host((&*host.name, host.port)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

/// Follows the addresses of `hosts`, in a task of the runtime in which it is called.
pub(super) fn spawn<F>(
    service: Arc<str>,
    hosts: &[Host],
    look_up: impl Fn(Host) -> F + Send + 'static,
) -> (Watch, LookingUp)
where
    F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let publisher = Publisher::new(service.clone());
    let watch = publisher.watch();
    let mut known: Vec<_> = hosts.iter().cloned().map(Known::new).collect();
    let task = tokio::spawn(async move {
        loop {
            let mut asked = JoinSet::new();
            for (at, Known { host, .. }) in known.iter().enumerate() {
                let answer = timeout(LIMIT, look_up(host.clone()));
                asked.spawn(async move { (at, answer.await.unwrap_or_else(|_| silent())) });
            }
            while let Some(answered) = asked.join_next().await {
                let Ok((at, answer)) = answered else { continue };
                known[at].told(answer);
                // Those of the others are not waited for.
                publisher.publish(known.iter().flat_map(|one| one.instances(&service)).collect());
            }
            sleep(AGAIN).await;
        }
    });
    (watch, LookingUp(task.abort_handle()))
}

/// The host and port by which an instance with this id was found; `None` if it was named by its address.
pub(super) fn named_in(id: &str) -> Option<&str> {
    id.rsplit_once('@').map(|(authority, _)| authority)
}

fn silent<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
}

/// What is known of a host.
struct Known {
    host: Host,
    addresses: Vec<IpAddr>,
    /// The last look-up has failed.
    failing: bool,
}

impl Known {
    const fn new(host: Host) -> Self {
        Self { host, addresses: Vec::new(), failing: false }
    }

    /// A failure changes nothing: a name server that is away says nothing of the instances.
    fn told(&mut self, answer: io::Result<Vec<IpAddr>>) {
        let Host { name, port } = &self.host;
        match answer {
            Ok(found) if !found.is_empty() => {
                self.addresses = of_one_family(found);
                if std::mem::take(&mut self.failing) {
                    tracing::info!(host = %name, port, "it is found again");
                }
            }
            failed if !std::mem::replace(&mut self.failing, true) => {
                let error = failed.err().map_or("it has no address".into(), |e| e.to_string());
                let known = self.addresses.len();
                tracing::warn!(host = %name, port, error, known, "not found; what was known stays");
            }
            _ => {}
        }
    }

    fn instances(&self, service: &Arc<str>) -> impl Iterator<Item = Arc<Instance>> {
        let Host { name, port } = &self.host;
        let named = name.parse::<IpAddr>().is_err();
        self.addresses.iter().map(move |address| {
            let mut instance = Instance::new(service.clone(), address.to_string(), *port);
            if named {
                instance.id = format!("{name}:{port}@{address}").into();
            }
            Arc::new(instance.with_health(Health::Healthy))
        })
    }
}

/// Where a host has addresses of both families, those of IPv4: most programs listen there, and one that listens at both would be two instances.
fn of_one_family(mut found: Vec<IpAddr>) -> Vec<IpAddr> {
    // An address with its scope is another one without it.
    found.retain(|address| !matches!(address, IpAddr::V6(v6) if is_of_a_link(v6)));
    if found.iter().any(IpAddr::is_ipv4) {
        found.retain(IpAddr::is_ipv4);
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(MOST);
    found
}

const fn is_of_a_link(address: &Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests;
