//! `gusset gateway`.

use std::{
    io::{Write, stdout},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use gusset_gateway::{
    Listeners, Server,
    config::{Config, Reloading, Resources},
};
use lexopt::prelude::*;
use tokio::{net::TcpListener, signal::unix::SignalKind};

use crate::{
    ends::{Ends, cannot_listen, signal},
    log,
};

pub(crate) const HELP: &str = "\
An API gateway: takes HTTP requests to the services behind it, as a TOML file says.

gusset gateway --config FILE [--check]
gusset gateway --schema

  --config FILE  what it does; README.md of gusset-gateway has an example
  --check        says whether the file, and those that it names, are right, and ends
  --schema       writes the JSON Schema of the file, for editors
  --help         this text

It says what it has to say on the standard error output; $GUSSET_LOG is off, error, warn, info, debug or trace [info].
SIGHUP, or a change of the file, reads it again; one that is wrong changes nothing. Where it listens, and how, needs a restart.
SIGTERM or Ctrl-C finishes what is under way, and ends; a second one ends at once.
The exit code is 0, or 2 if it could not start, or had to cut connections at its end.
";

/// How long the log of requests may take at the end.
const FLUSH: Duration = Duration::from_secs(5);

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Schema,
    Check(PathBuf),
    Run(PathBuf),
}

/// `None` for help.
pub(crate) fn parse(args: &mut lexopt::Parser) -> Result<Option<Asked>, lexopt::Error> {
    let (mut config, mut check, mut schema) = (None, false, false);
    while let Some(arg) = args.next()? {
        match arg {
            Long("config") | Short('c') => config = Some(PathBuf::from(args.value()?)),
            Long("check") => check = true,
            Long("schema") => schema = true,
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(arg.unexpected()),
        }
    }
    match config {
        _ if schema => Ok(Some(Asked::Schema)),
        Some(file) if check => Ok(Some(Asked::Check(file))),
        Some(file) => Ok(Some(Asked::Run(file))),
        None => Err("--config FILE is missing".into()),
    }
}

pub(crate) fn run(asked: &Asked) -> Result<(), String> {
    let file = match asked {
        Asked::Schema => return say(&Config::schema()),
        Asked::Check(file) | Asked::Run(file) => file,
    };
    let check = matches!(asked, Asked::Check(_));
    if !check {
        log::begin()?;
    }
    // What serves has threads of its own; this one follows the registry.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let reloading = Reloading::open(file, Resources::default());
        let reloading = reloading.map_err(|errors| errors.to_string())?;
        let config = reloading.config();
        let server = config.server().map_err(|errors| errors.to_string())?;
        if check {
            return say(&format!(
                "ok: {}, {}\n",
                count(config.routes(), "route"),
                count(config.upstreams(), "upstream")
            ));
        }
        let admin = match reloading.admin() {
            Some((address, admin)) => Some((listen(address).await?, admin)),
            None => None,
        };
        let listeners = Listeners::bind(config.listen(), config.cores())
            .map_err(|error| cannot_listen(config.listen(), "server.listen", &error))?;
        let address = listeners.local_addr().map_err(|error| error.to_string())?;
        let (mut ends, mut hang_up) = (Ends::new()?, signal(SignalKind::hangup())?);
        let scheme = if config.has_tls() { "https" } else { "http" };
        say(&format!("gusset gateway: {scheme}://{address}; Ctrl-C ends it\n"))?;
        let (begin, mut begun) = tokio::sync::watch::channel(false);
        let serving = server.run_on(listeners, reloading.live().clone(), async move {
            let _ = begun.wait_for(|begun| *begun).await;
        });
        let shown = admin.as_ref().map(|(_, admin)| admin.clone());
        let operators = async {
            let Some((listener, admin)) = admin else { return std::future::pending().await };
            // It is there until the end, and shows it.
            let _ = Server::new()
                .max_connections(64)
                .run(listener, admin, std::future::pending())
                .await;
        };
        let ended = async {
            ends.next().await;
            if let Some(admin) = shown {
                admin.drain(true);
            }
            begin.send_replace(true);
            ends.next().await;
        };
        let reloads = async {
            while hang_up.recv().await.is_some() {
                let reloading = reloading.clone();
                // It tells the log what came of it.
                let _ = tokio::task::spawn_blocking(move || reloading.reload()).await;
            }
            std::future::pending().await
        };
        let result = tokio::select! {
            () = reloads => Ok(()),
            () = operators => Ok(()),
            () = reloading.follow() => Ok(()),
            result = serving => result.map_err(|error| error.to_string()),
            () = ended => Err("it was ended before all requests were answered".into()),
        };
        reloading.flush(FLUSH);
        result
    })
}

/// Where operators are listened to.
async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let cannot = |error| format!("cannot listen on {address} for operators: {error}");
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    say(&format!("gusset gateway: operators on http://{address}\n"))?;
    Ok(listener)
}

/// Whoever closes the pipe has read enough.
fn say(what: &str) -> Result<(), String> {
    let _ = stdout().write_all(what.as_bytes());
    Ok(())
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
