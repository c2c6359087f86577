//! One part of a shop in a process of its own: what the program does when it is [started so](Hosting::Processes).

use std::{future::IntoFuture, io, net::SocketAddr, time::Duration};

use axum::{Router, serve::ListenerExt};
use gusset::{
    breaker,
    call::Deadline,
    console::{self, Sources},
    gateway::{Live, serve},
    health::Health,
    observe,
    shutdown::Shutdown,
    sidecar::{Recorder, telemetry::Store},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, time::timeout};

#[cfg(doc)]
use crate::Hosting;
use crate::{
    Ground, Quotas, Times,
    carrier::Events,
    chaos,
    client::Outbound,
    folder::{Folder, Opener},
    front::{self, Door},
    place::{Registries, Server},
    plan::{CONSOLE, Plan},
    release,
    service::{App, LAST},
    services::{SERVICES, Services, sidecar_of},
    tell,
};

/// The variable in which a process finds its [`Post`], as JSON. It holds secrets, which a command line would show to everybody.
pub(crate) const POST: &str = "GUSSET_SHOP_POST";

/// What a process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Post {
    pub(crate) part: Part,
    pub(crate) ground: Ground,
    /// Where Consul's HTTP API is, with the settings.
    pub(crate) url: String,
}

/// A part of a shop.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// The registry with the settings, here.
    Registry(SocketAddr),
    /// The front door, here; it is looked into there.
    Gateway(SocketAddr, SocketAddr),
    /// An instance of a service, its number.
    Service(String, usize),
    /// The same behind a `gusset sidecar`: where it listens for that, and the port at which that takes its calls.
    Behind(String, SocketAddr, u16),
}

/// Does what the environment says, until SIGTERM or Ctrl-C. It finishes what is under way then.
///
/// # Errors
///
/// If the environment says nothing, or it cannot be done.
pub async fn run() -> io::Result<()> {
    let post = std::env::var(POST).map_err(io::Error::other)?;
    let Post { part, ground, url } = serde_json::from_str(&post).map_err(io::Error::other)?;
    let shutdown = Shutdown::new(Duration::ZERO);
    let signals = shutdown.clone();
    let _signalled = tokio::spawn(async move { signals.signalled().await });
    match part {
        Part::Registry(addr) => {
            let server = Server::spawn(&addr.to_string()).await?;
            shutdown.begun().await;
            server.close().await
        }
        Part::Gateway(addr, desk) => gateway(addr, desk, &ground, &url, &shutdown).await,
        Part::Service(service, number) => {
            instance(&service, Place::Number(number), &ground, &url, &shutdown).await
        }
        Part::Behind(service, addr, port) => {
            instance(&service, Place::Behind(addr, port), &ground, &url, &shutdown).await
        }
    }
}

pub(crate) fn breaker(times: Times) -> breaker::Policy {
    breaker::Policy::consecutive(5).open_for(times.open_for)
}

async fn gateway(
    addr: SocketAddr,
    desk: SocketAddr,
    ground: &Ground,
    url: &str,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let registry = Registries::at(&ground.registry, url, ground.times, &ground.chaos)?.connect()?;
    let recorder = Recorder::new("gateway");
    // It is followed for as long as somebody has it.
    let followed = registry.clone();
    let (split, breaker) = (release::split(), breaker(ground.times));
    let door = Door { tokens: ground.tokens(), quotas: Quotas::of(ground)?, breaker };
    let gateway =
        front::gateway(registry, &door, recorder.clone(), &split).map_err(io::Error::other)?;
    // Whoever looks in may do so to the end.
    let desk = TcpListener::bind(desk).await?;
    let sources = Sources::new()
        .gateway("gateway", &Live::new(gateway.clone()))
        .traces(&Store::of(&recorder))
        .split("products", &split)
        .operator_token(&ground.tokens().of_operators());
    let router: Router = tell::spans(recorder)
        .merge(release::router(&split))
        .nest(CONSOLE, console::router(sources));
    let looked_into = tokio::spawn(async move { axum::serve(desk, router).await });
    let listener = TcpListener::bind(addr).await?;
    let served = serve(listener, gateway, shutdown.begun()).await.map_err(io::Error::other);
    looked_into.abort();
    drop(followed);
    served
}

/// Where an instance is.
enum Place {
    /// On any port, registered with this number.
    Number(usize),
    /// Here, where a sidecar with this port finds it.
    Behind(SocketAddr, u16),
}

async fn instance(
    service: &str,
    place: Place,
    ground: &Ground,
    url: &str,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let folder = Folder::of(ground, Opener::Service).await?;
    let events = Events::on(&ground.broker, &folder, &ground.chaos).await?;
    let registries = Registries::at(&ground.registry, url, ground.times, &ground.chaos)?;
    let mut plan = Plan::new(registries, breaker(ground.times), url.to_owned())?;
    let services = Services::new(&folder, &ground.tokens(), ground.flow, &events.broker);
    services.plan(&mut plan, &ground.chaos);
    plan.look_after(&ground.chaos, ground.tokens().of_operators());
    let sidecar = sidecar_of(service);
    let broker = &events.broker;
    let consumer = match service {
        "inventory-service" => {
            observe::numbers(broker, sidecar.metrics());
            Some(services.inventory.subscribe(broker, &sidecar).await.map_err(io::Error::other)?)
        }
        "notification-service" => {
            let (notifications, mut switches) =
                (services.notifications.clone(), ground.chaos.watch());
            // It ends with the runtime.
            tokio::spawn(async move {
                while switches.changed().await.is_ok() {
                    notifications.set_mailing(chaos::told::mailing(*switches.borrow_and_update()));
                }
            });
            let subscribed = services.notifications.subscribe(broker, &sidecar).await;
            Some(subscribed.map_err(io::Error::other)?)
        }
        _ => None,
    };
    let stopped = match place {
        Place::Number(number) => {
            let (_member, running) = plan.start(service, number, Some(sidecar)).await?;
            over(shutdown).await?;
            running.stop().await
        }
        Place::Behind(addr, port) => {
            let names = SERVICES.map(|(name, _)| name);
            let outbound = Outbound::through(sidecar, port, &names).await?;
            // What it knows is followed for as long as somebody has it.
            let followed = outbound.clone();
            let served = behind(addr, plan.app(service, outbound)?().await, shutdown).await;
            drop(followed);
            served
        }
    };
    drop(consumer);
    events.broker.close(Deadline::after(Duration::from_secs(2))).await;
    stopped
}

/// Serves until the sidecar, which has finished what is under way by then, says that it is over.
async fn behind(addr: SocketAddr, app: App, shutdown: &Shutdown) -> io::Result<()> {
    let listener = TcpListener::bind(addr).await?.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    let router = app.router.merge(Health::new(shutdown).router());
    let ends = shutdown.clone();
    let server =
        axum::serve(listener, router).with_graceful_shutdown(async move { ends.begun().await });
    let serving = tokio::spawn(server.into_future());
    over(shutdown).await?;
    (app.leaving)();
    let served = timeout(LAST, serving).await;
    let _ = timeout(LAST, app.at_last).await;
    // Connections that the sidecar keeps for later are no failure.
    served.map_or(Ok(()), |served| served.map_err(io::Error::other)?)
}

/// Ready when this process is to end.
async fn over(shutdown: &Shutdown) -> io::Result<()> {
    tokio::select! {
        () = shutdown.begun() => Ok(()),
        // Nobody would look after it.
        () = orphaned() => Err(io::Error::other("the shop is gone")),
    }
}

/// Ready when the process that began this one is gone.
async fn orphaned() {
    let parent = std::os::unix::process::parent_id();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    while std::os::unix::process::parent_id() == parent {
        ticks.tick().await;
    }
}
