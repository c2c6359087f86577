//! `gusset registry`.

use std::{
    error::Error,
    io::{Write, stdout},
    time::Duration,
};

use gusset_registry::{ConsulPolicy, ConsulServer};
use tokio::net::TcpListener;

use crate::{
    ends::{Ends, cannot_listen},
    options::Registry,
    serve, tls,
};

/// How old the saved instances are at most, as long as it takes little time to save them.
const SAVE_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn run(options: Registry) -> Result<(), String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(registry(options))
}

async fn registry(options: Registry) -> Result<(), String> {
    let tls = options.tls.as_ref().map(|(certificates, key)| tls::acceptor(certificates, key));
    let tls = tls.transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let cannot = |error| cannot_listen(options.listen, "--listen", &error);
    let listener = TcpListener::bind(options.listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let mut ends = Ends::new()?;

    let ip = match address.ip() {
        ip if ip.is_unspecified() => "127.0.0.1".into(),
        ip => ip.to_string(),
    };
    let mut policy = ConsulPolicy::default().node("gusset", ip).active_checks(options.checks);
    if let Some(token) = options.token {
        policy = policy.token(token);
    }
    let server = ConsulServer::new(policy);
    let saver = options.data_dir.map(|folder| server.spawn_saver(folder, SAVE_EVERY));
    let saver = saver.transpose().map_err(|error| with_cause(&error))?;
    let ticker = server.spawn_ticker();
    let _ = writeln!(
        stdout(),
        "gusset registry: Consul's HTTP API on {scheme}://{address}; Ctrl-C ends it"
    );

    let serving = serve::Serving::spawn(listener, tls, server.clone());
    ends.next().await;
    server.close();
    tokio::select! {
        () = serving.close() => {}
        () = ends.next() => {}
    }
    drop(ticker);
    match saver {
        Some(saver) => {
            saver.close().await.map_err(|error| format!("the last changes are not saved: {error}"))
        }
        None => Ok(()),
    }
}

pub(crate) fn with_cause(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
