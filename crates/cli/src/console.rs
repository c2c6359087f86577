//! `gusset console`.

mod options;

use std::{
    convert::Infallible,
    io::{Write, stdout},
    sync::Arc,
    time::Duration,
};

use axum::body::Body;
use gusset_console::{OtherConsole, OtherGateway, OtherSidecar, Sources};
use gusset_gateway::{ClientBody, Server};
use gusset_registry::{RemotePolicy, RemoteRegistry};
use http::Request;
use tokio::net::TcpListener;
use tower::{ServiceExt, service_fn};

use crate::ends::{Ends, cannot_listen};

use self::options::Kind;

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
    let cannot = |error| cannot_listen(address, "--listen", &error);
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let mut ends = Ends::new()?;
    let _ = writeln!(stdout(), "gusset console: http://{address}/; Ctrl-C ends it");

    let router = gusset_console::router(sources);
    let service = service_fn(move |request: Request<ClientBody>| {
        let router = router.clone();
        async move {
            let Ok::<_, Infallible>(answer) = router.oneshot(request.map(Body::new)).await;
            Ok::<_, Infallible>(answer)
        }
    });
    let ended = async move { ends.next().await };
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
        let token = asked.their_token.as_deref();
        let all = match kind {
            Kind::Console => {
                OtherConsole::new(url, token).map(|it| sources.other(name.as_str(), it))
            }
            Kind::Gateway => {
                OtherGateway::new(name, url, token).map(|it| sources.other(name.as_str(), it))
            }
            Kind::Sidecar => {
                OtherSidecar::new(name, url, token).map(|it| sources.other(name.as_str(), it))
            }
        };
        sources = all.map_err(|error| error.to_string())?;
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
