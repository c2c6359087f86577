//! `gusset sidecar`.

mod admin;
mod app;
mod command;
mod door;
mod ends;
mod file;
mod instance;
mod mesh;
mod options;
mod otlp;
mod proxy;
mod registry;
mod reload;
mod shown;
mod way;

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use gusset_gateway::{Server, Tls};
use gusset_sidecar::telemetry::{self, Telemetry};
use serde_json::{Value, json};
use tokio::{
    signal::unix::SignalKind,
    sync::{mpsc, watch},
    task::{JoinSet, spawn_blocking},
};

pub(crate) use self::options::{Asked, Environment, parse};
use self::{
    admin::{Admin, Means, State},
    app::Registering,
    command::Supervised,
    door::Door,
    ends::Ends,
    instance::instance,
    options::{Again, Sidecar},
    otlp::otlp,
    proxy::Proxy,
    registry::registry,
    reload::{Reloading, Told},
    shown::{shown, without_password},
};

pub(crate) const HELP: &str = "\
Stands beside a program in any language: others reach it through the sidecar, and it reaches others by their names.

gusset sidecar --service NAME --app ADDR --registry URL [OPTIONS] [-- COMMAND [ARGS]]
gusset sidecar --config FILE [--check] [OPTIONS] [-- COMMAND [ARGS]]

  --service NAME      under which others find the app
  --app ADDR          where the app listens, as 127.0.0.1:9000
  --registry URL      http:// or https://, a gusset registry or Consul; or etcd://HOST:PORT,HOST:PORT... [$GUSSET_REGISTRY]
  --token TOKEN       for the registry, for etcd USER:PASSWORD [$GUSSET_TOKEN]
  --ca FILE           PEM: who may sign the registry's certificate; needed for https://, and makes etcd:// one over TLS

  --listen ADDR       where others call the app: HTTP/1.1, HTTP/2, WebSocket [0.0.0.0:4143]
  --outbound ADDR     where the app calls others: the service's name as Host, or as an HTTP proxy [127.0.0.1:4140]
  --admin ADDR        /livez /readyz /status /metrics /traces /logs /config /log-level /reload /drain [127.0.0.1:4191]
  --admin-token T     what operators have to show; needed beyond loopback [$GUSSET_ADMIN_TOKEN]

  --advertise HOST[:PORT]  where others find --listen [the address by which the registry is reached]
  --id ID, --zone ZONE, --app-version V, --tag TAG..., --meta KEY=VALUE...   what is registered as well
  --health HOW        how the app is asked whether it works: tcp, /PATH, grpc, grpc:SERVICE [tcp]
  --app-http VERSION  1.1, or 2 for an app that speaks HTTP/2 alone; gRPC goes by HTTP/2 in any case [1.1]
  --timeout SPAN      for a request without a deadline of its own, either way, or none [30s]
  --in-flight N       requests that the app has at once; more are answered with 503 [no limit]
  --quota RATE        requests that the app gets, as 100/s or 1/10s; more are answered with 429 [no limit]
  --quota-burst N     how many of them may come at once after a pause [those of a period]
  --quota-by WHO      who shares it: all, or those of the same caller (by certificate), address, header:NAME [all]
  --cores N           threads for requests [1]
  --trust-domain NAME, --mtls-ca FILE, --mtls-cert FILE, --mtls-key FILE   sidecars call one another by mTLS alone, by certificates in PEM with the URI
                      spiffe://NAME/SERVICE, read again when they change
  --allow SERVICE...  who may call then [all of the trust domain]
  --ttl SPAN          after which the registry takes the app for gone if it hears nothing [30s]
  --circuit-open SPAN how long an instance that fails is left alone [1s, which doubles up to 30s]
  --grace SPAN        between leaving the registry and closing the door [1s]
  --drain-limit SPAN  for the whole end; what is left then is cut, and the command killed [30s]
  --log FILTER        as info,hyper=warn [$GUSSET_LOG, or info]
  --access-log FILE   a line of JSON for each request to the app, with its trace id; - is the standard output [none]
  --otlp URL          a collector of OpenTelemetry, as http://127.0.0.1:4318: gets spans, metrics and logs [none]
  --otlp-ca FILE      PEM: who may sign its certificate [those that the system knows]
  --proxy-env         tells the command by http_proxy and its like that it has an HTTP proxy
  --config FILE       all of it as TOML; the environment wins over it, and the command line over both
  --check             says whether all of it is right, and ends
  --schema            writes the JSON Schema of the file, for editors
  --help              this text

COMMAND is started, and ends the sidecar when it ends; it is not started again. Its $GUSSET_OUTBOUND is the URL of --outbound. SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGWINCH are handed on to it.
The app is registered once it works, and as long as it does. SIGTERM, Ctrl-C or a POST to /drain: /readyz says no, callers are told, requests under way are finished, the
command gets SIGTERM; a second signal ends at once. SIGHUP, POST /reload or a change of the file reads it again, as a whole; one that is wrong changes nothing. timeout, in_flight, quota, access_log, log and allow are in force at once, all else needs a restart.
The exit code is that of the command, 128 and the number of the signal that ended it; without one 0, or 1 if requests were cut; 2 if it could
not start.
";

/// The number is what the process ends with.
pub(crate) fn run(asked: Asked) -> Result<u8, String> {
    match asked {
        Asked::Run(options, again) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(sidecar(*options, *again))
        }
        Asked::Check(options) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            let _entered = runtime.enter();
            registry(&options)?;
            options.otlp.as_ref().map(otlp).transpose()?;
            options.mesh.as_ref().map(|mesh| mesh.door(&options.service)).transpose()?;
            crate::say(&format!(
                "ok: {} at {}, registry {}\n",
                options.service,
                options.app,
                without_password(&options.registry)
            ));
            Ok(0)
        }
        Asked::Schema => {
            crate::say(&file::schema());
            Ok(0)
        }
    }
}

async fn sidecar(options: Sidecar, again: Again) -> Result<u8, String> {
    let signals = crate::ends::Ends::new()?;
    let layers = gusset_sidecar::Sidecar::new(options.service.as_str());
    let telemetry = telemetry(&options, &layers)?;
    let registry = registry(&options)?;
    let tls = options.mesh.as_ref().map(|mesh| mesh.door(&options.service)).transpose()?;
    let proxy = Proxy::new(&options, registry.clone(), &layers)?;
    let inbound = Door::open("--listen", options.listen, options.cores).await?;
    let outbound = Door::open("--outbound", options.outbound, options.cores).await?;
    let admin = Door::open("--admin", options.admin, ONE).await?;
    let instance = instance(&options, inbound.address)?;

    let works = app::spawn_follow(options.app, options.health.check());
    let registering = Registering::spawn(registry, instance.clone(), works.clone());
    let (says_draining, draining) = watch::channel(false);
    let (stop, stopped) = mpsc::channel(1);
    let state = State { works, registered: registering.state(), draining };
    proxy.report(layers.metrics(), state.clone());
    let places = [inbound.address, outbound.address, admin.address];
    let filter = telemetry.filter().clone();
    let reloading = Reloading::new(again, options.clone(), proxy.clone(), filter);
    let shown = {
        let (proxy, reloading) = (proxy.clone(), reloading.clone());
        move || {
            let show = |options: &Sidecar| shown(options, &instance, places);
            let (mut shown, told) = match &reloading {
                Some(reloading) => reloading.shown(show),
                None => (show(&proxy.options()), Told::default()),
            };
            shown["reload"] = told_json(&told);
            shown
        }
    };
    let mut following = JoinSet::new();
    if let Some(reloading) = reloading.clone() {
        // Before anybody is told that it runs: who reads the line may send one.
        following.spawn(reloading.follow(crate::ends::signal(SignalKind::hangup())?));
    }
    let means = Means {
        config: Box::new(shown),
        reload: reloading.map(|reloading| -> Box<dyn Fn() -> _ + Send + Sync> {
            Box::new(move || reloading.reload().map(|told| told_json(&told)))
        }),
        stop: Box::new(move || {
            // It is full when it was said already.
            let _ = stop.try_send(());
        }),
    };
    let answers = Admin::new(
        state,
        proxy.outbound(),
        (&telemetry, layers.metrics()),
        (means, options.admin_token.clone()),
    );
    let ends = Ends {
        registering,
        inbound: inbound
            .serve(with_tls(Server::new().drain_limit(options.drain_limit), tls), proxy.inbound()),
        // Its only client is the app, which has ended or has no more to ask.
        outbound: outbound.serve(
            Server::new().drain_limit(options.drain_limit).linger(Duration::ZERO),
            proxy.outbound(),
        ),
        command: command(&options, places[1])?,
        admin: admin.serve(Server::new().linger(Duration::ZERO), answers),
        says_draining,
        store: telemetry.store().clone(),
    };
    let [inbound, outbound, admin] = places;
    crate::complain(&format!(
        "{}: in at {inbound}, out at {outbound}, admin at {admin}",
        options.service
    ));
    let code = ends.wait(signals, stopped, &options).await;
    let _ = spawn_blocking(move || proxy.flush()).await;
    code
}

fn telemetry(options: &Sidecar, layers: &gusset_sidecar::Sidecar) -> Result<Telemetry, String> {
    // The variables of the environment are for the app.
    let mut init = telemetry::init(options.service.as_str())
        .variables([("RUST_LOG", directives(options.log.as_deref()))])
        .writer(std::io::stderr)
        .sidecar(layers);
    if let Some(to) = &options.otlp {
        init = init.otlp(otlp(to)?);
    }
    init.start().map_err(|error| error.to_string())
}

/// What is logged, by what was asked for.
fn directives(asked: Option<&str>) -> String {
    let variable = || std::env::var("GUSSET_LOG").ok();
    asked.map(str::to_owned).or_else(variable).unwrap_or_else(|| "info".into())
}

fn told_json(told: &Told) -> Value {
    json!({ "count": told.reloads, "error": told.error, "needs_restart": told.needs_restart })
}

fn with_tls(server: Server, tls: Option<Tls>) -> Server {
    match tls {
        Some(tls) => server.tls(tls),
        None => server,
    }
}

const ONE: NonZeroUsize = NonZeroUsize::MIN;

fn command(options: &Sidecar, outbound: SocketAddr) -> Result<Option<Supervised>, String> {
    if options.command.is_empty() {
        return Ok(None);
    }
    let url = format!("http://{outbound}");
    let mut variables = vec![("GUSSET_OUTBOUND", url.clone())];
    if options.proxy {
        variables.extend(["http_proxy", "HTTP_PROXY"].map(|name| (name, url.clone())));
        let here = || "localhost,127.0.0.1,::1".to_owned();
        variables.extend(["no_proxy", "NO_PROXY"].map(|name| (name, here())));
    }
    Supervised::start(&options.command, variables).map(Some)
}
