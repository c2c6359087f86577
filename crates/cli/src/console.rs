//! `gusset console`.

mod client;
mod elsewhere;
mod options;

use std::{
    convert::Infallible,
    io::{ErrorKind, Write, stdout},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::body::Body;
use gusset_console::Sources;
use gusset_gateway::{ClientBody, Server};
use gusset_registry::{RemotePolicy, RemoteRegistry};
use http::Request;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tower::{ServiceExt, service_fn};

use self::{
    client::Client,
    elsewhere::{OfConsole, OfGateway, OfSidecar},
    options::Kind,
};

pub(crate) use options::{Asked, HELP, parse};

/// Tabs, and as many followers as the console takes.
const CONNECTIONS: usize = 256;
/// Followers are answered for half a minute at most.
const END: Duration = Duration::from_secs(2);

pub(crate) fn run(asked: Asked) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(console(asked))
}

async fn console(asked: Asked) -> Result<(), String> {
    let address = asked.listen;
    let sources = sources(asked).await?;
    let listener = TcpListener::bind(address).await.map_err(|error| reason(address, &error))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    // Before anybody is told that it runs: who reads the line may end it.
    let (mut interrupt, mut terminate) =
        (of(SignalKind::interrupt())?, of(SignalKind::terminate())?);
    let _ = writeln!(stdout(), "gusset console: http://{address}/; Ctrl-C ends it");

    let router = gusset_console::router(sources);
    let service = service_fn(move |request: Request<ClientBody>| {
        let router = router.clone();
        async move {
            let Ok::<_, Infallible>(answer) = router.oneshot(request.map(Body::new)).await;
            Ok::<_, Infallible>(answer)
        }
    });
    let ended = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let server = Server::new().max_connections(CONNECTIONS).drain_limit(END);
    // Who follows is cut, and asks the next one that is there.
    let _ = server.run(listener, service, ended).await;
    Ok(())
}

async fn sources(asked: Asked) -> Result<Sources, String> {
    let mut sources = asked.hosts.iter().fold(Sources::new(), |all, host| all.host(host));
    if let Some(token) = &asked.token {
        sources = sources.operator_token(token);
    }
    if asked.readers_need_token {
        sources = sources.readers_need_token();
    }
    if let Some(url) = &asked.registry {
        let policy = RemotePolicy::default();
        let policy = match &asked.their_token {
            Some(token) => policy.token(token.as_str()),
            None => policy,
        };
        let registry = RemoteRegistry::new(url, policy);
        sources = sources.registry(registry.map_err(|error| format!("--registry: {error}"))?);
    }
    if let Some(place) = &asked.broker {
        sources = sources.broker(&broker(place).await?);
    }
    if let Some(place) = &asked.sagas {
        sources = sources.saga_store(sagas(place).await?);
    }
    for (kind, name, url) in &asked.others {
        let client = Client::new(url, asked.their_token.as_deref())?;
        sources = match kind {
            Kind::Console => sources.other(name.as_str(), OfConsole(client)),
            Kind::Gateway => sources.other(name.as_str(), OfGateway::new(name, client)),
            Kind::Sidecar => sources.other(name.as_str(), OfSidecar::new(name, client)),
        };
    }
    Ok(sources)
}

/// On NATS, or in a folder that no other process has open.
async fn broker(place: &str) -> Result<gusset_broker::Broker, String> {
    #[cfg(any(feature = "file", feature = "nats"))]
    {
        crate::deadletters::open(place).await
    }
    #[cfg(not(any(feature = "file", feature = "nats")))]
    {
        Err(format!("--broker {place}: this gusset was built without the features file and nats"))
    }
}

async fn sagas(place: &str) -> Result<Arc<dyn gusset_saga::Store>, String> {
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    {
        crate::saga::open_at(place).await
    }
    #[cfg(not(any(feature = "sqlite", feature = "postgres")))]
    {
        Err(format!(
            "--saga {place}: this gusset was built without the features sqlite and postgres"
        ))
    }
}

fn of(kind: SignalKind) -> Result<Signal, String> {
    signal(kind).map_err(|error| format!("signals cannot be received: {error}"))
}

fn reason(address: SocketAddr, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            let port = address.port();
            format!("port {port} is in use; choose another with --listen, port 0 for any free one")
        }
        _ => format!("cannot listen on {address}: {error}"),
    }
}
