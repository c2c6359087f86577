//! Shows client-side discovery: a service of three instances, of which one gets slow and one dies, and a newcomer that is warmed up. The
//! clients are those of hyper-util, reqwest and tonic.
//!
//! `cargo run --example balance`; it takes seven seconds.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use gusset::registry::{
    Balance, Chooser, Ejection, Fleet, Http, Instance, LeastLoaded, MemoryRegistry, Registration,
    Registry, WeightedRoundRobin,
};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, runtime::Runtime, task::JoinSet, time::sleep};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Service, ServiceExt};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    let mut servers = Vec::new();
    for name in ["a", "b", "c"] {
        servers.push(Server::start(&registry, name).await?);
    }

    // How an instance is reached: one client for all, pointed at each.
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let shop = Balance::new(registry.watch("shop"), move |instance: &Instance| {
        let (client, authority) = (client.clone(), instance.authority());
        tower::service_fn(move |request: Request<Body>| {
            let (client, uri) = (client.clone(), format!("http://{authority}{}", request.uri()));
            async move { Ok::<_, Box<dyn Error + Send + Sync>>(client.get(uri.parse()?).await?) }
        })
    })
    .protocol(Http)
    .pick(LeastLoaded::peak_ewma(Duration::from_secs(2)))
    .among(Fleet::new().slow_start(Duration::from_secs(3)))
    .eject(Ejection::default().consecutive(3).base(Duration::from_secs(30)));
    let _connector = shop.spawn_connector::<Request<Body>>();

    // The first calls are slow for reasons of their own.
    calls(&shop, 80).await;
    sleep(Duration::from_secs(2)).await;

    say("1. hyper-util. Three instances, all well:\n")?;
    show(&calls(&shop, 300).await)?;

    say("\n2. b gets slow. Its calls pile up and take long, and others are preferred:\n")?;
    servers[1].delay.store(60, Relaxed);
    show(&calls(&shop, 300).await)?;
    servers[1].delay.store(0, Relaxed);

    say(
        "\n3. c is killed, and the registry does not know it yet. Three failures, and it is ejected:\n",
    )?;
    servers.pop().into_iter().for_each(Server::kill);
    show(&calls(&shop, 300).await)?;
    for endpoint in shop.endpoints().iter().filter(|endpoint| endpoint.ejected.is_some()) {
        let seconds = endpoint.ejected.map_or(0, |left| left.as_secs());
        say(&format!("   {} is out for {seconds} s more", name(&endpoint.instance)))?;
    }

    say("\n4. d is new, and warmed up for three seconds, here in rotation:\n")?;
    let rotation = shop.clone().pick(WeightedRoundRobin::new());
    // It looks for the first time, so who is there already is no newcomer.
    show(&calls(&rotation, 8).await)?;
    servers.push(Server::start(&registry, "d").await?);
    for second in 0..4 {
        say(&format!("   after {second} s"))?;
        show(&calls(&rotation, 200).await)?;
        sleep(Duration::from_secs(1)).await;
    }

    say("\n5. reqwest, by hand: a chooser says where to.\n")?;
    let mut chooser = Chooser::new(registry.watch("shop"))
        .among(Fleet::new().only(|instance| name(instance) != "c"));
    let web = reqwest::Client::new();
    let mut answers = BTreeMap::new();
    for _ in 0..30 {
        let Some(instance) = chooser.choose(&()) else { return Err("nobody is there".into()) };
        let answer = web.get(format!("http://{}/", instance.authority())).send().await;
        if answer.is_ok() {
            instance.succeeded()
        } else {
            instance.failed()
        }
        *answers.entry(answer?.text().await?).or_insert(0) += 1;
    }
    show(&answers)?;

    say(
        "\n6. tonic: a channel for each instance, and the generated client around the balancer.\n",
    )?;
    let channel = |instance: &Instance| -> Channel {
        let place = Endpoint::from_shared(format!("http://{}", instance.authority()));
        place.unwrap_or_else(|_| Endpoint::from_static("http://invalid")).connect_lazy()
    };
    let not_c = |instance: &Instance| name(instance) != "c";
    let channels = Balance::new(registry.watch("shop"), channel)
        .protocol(Http)
        .among(Fleet::new().only(not_c));
    let mut health = HealthClient::new(channels);
    for _ in 0..3 {
        let answer = health.check(HealthCheckRequest::default()).await?;
        say(&format!("   health: {:?}", answer.into_inner().status()))?;
    }
    servers.into_iter().for_each(Server::kill);
    Ok(())
}

/// One instance of the shop, on threads of its own, so that it can be killed with all its connections.
struct Server {
    runtime: Runtime,
    delay: Arc<AtomicU64>,
    registration: Registration,
}

impl Server {
    async fn start(registry: &MemoryRegistry, name: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        let runtime = threads.worker_threads(1).enable_all().build()?;
        let delay = Arc::new(AtomicU64::new(0));
        let (_, health) = tonic_health::server::health_reporter();
        let routes = tonic::service::Routes::new(health).into_axum_router();
        let sleeps = delay.clone();
        let answer = move || async move {
            sleep(Duration::from_millis(1 + sleeps.load(Relaxed))).await;
            name
        };
        let router: Router = routes.route("/", get(answer));
        let listener = listener.into_std()?;
        runtime.spawn(async move { axum::serve(TcpListener::from_std(listener)?, router).await });

        let instance = Instance::new("shop", "127.0.0.1", port).with_metadata("name", name);
        let registration = Registration::spawn(registry.clone(), instance);
        registration.registered().await?;
        Ok(Self { runtime, delay, registration })
    }

    /// Without a word to anybody: its registration beats on for the while that this program runs.
    fn kill(self) {
        std::mem::forget(self.registration);
        self.runtime.shutdown_background();
    }
}

/// Who answered how many of `count` calls, eight at a time.
async fn calls<S>(shop: &S, count: usize) -> BTreeMap<String, usize>
where
    S: Service<Request<Body>, Response = Response<Incoming>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let shop = shop.clone();
        tasks.spawn(async move {
            let mut answers = BTreeMap::new();
            for _ in 0..count / 8 {
                let answer = shop.clone().oneshot(Request::new(Body::empty())).await.ok();
                let who = match answer {
                    Some(answer) => text(answer).await,
                    None => "failed".into(),
                };
                *answers.entry(who).or_insert(0) += 1;
            }
            answers
        });
    }
    let mut sum = BTreeMap::new();
    for (who, count) in tasks.join_all().await.into_iter().flatten() {
        *sum.entry(who).or_insert(0) += count;
    }
    sum
}

async fn text(answer: Response<Incoming>) -> String {
    let body = answer.into_body().collect().await;
    body.map_or("failed".into(), |body| String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

fn name(instance: &Instance) -> &str {
    instance.metadata.get("name").map_or("?", String::as_str)
}

fn show(answers: &BTreeMap<String, usize>) -> Result<()> {
    let all: usize = answers.values().sum::<usize>().max(1);
    for (who, count) in answers {
        say(&format!("   {who:>6} {count:>4} {}", "█".repeat((count * 60).div_ceil(all))))?;
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}
