//! A rolling restart of three real servers under load, for every engine of [`Registry`].

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use gusset_registry::{Balance, Http, Instance, LeastLoaded, Registration, Registry};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tower::ServiceExt;

type Engine = Arc<dyn Registry>;

/// One instance: a server, and its registration.
struct Running {
    registration: Registration,
    answered: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Running {
    async fn start(engine: &Engine, id: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answered, (stop, stopped)) = (Arc::default(), watch::channel(false));
        let server = tokio::spawn(serve(listener, address, Arc::clone(&answered), stopped));
        let instance = Instance::new("rolling", "127.0.0.1", address.port()).with_id(id);
        let registration = Registration::spawn(engine.clone(), instance);
        registration.registered().await.unwrap();
        Self { registration, answered, stop, server }
    }

    async fn stop(self, how: Stop) -> usize {
        if let Stop::AfterItSaidSo(grace) = how {
            self.registration.close_after(grace).await.unwrap();
            self.stop.send(true).unwrap();
            self.server.await.unwrap();
        } else {
            self.stop.send(true).unwrap();
            self.server.await.unwrap();
            self.registration.close().await.unwrap();
        }
        self.answered.load(SeqCst)
    }
}

/// How a server leaves. Either way it finishes what it has begun.
#[derive(Clone, Copy)]
enum Stop {
    /// As it should: it goes on serving until everybody knows.
    AfterItSaidSo(Duration),
    BeforeItSaysSo,
}

/// What came of calls during a rolling restart.
struct Outcome {
    lost: Vec<String>,
    answered: usize,
    sent: usize,
}

/// Answers with its own address, after 1 to 8 ms, until it is stopped. What is under way by then is finished, and nothing more is accepted.
async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    answered: Arc<AtomicUsize>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let (answered, mut stopped) = (answered.clone(), stopped.clone());
        connections.spawn(async move {
            let answer = service_fn(move |_: Request<Incoming>| {
                let number = answered.fetch_add(1, SeqCst) as u64;
                async move {
                    sleep(Duration::from_millis(1 + number % 8)).await;
                    let body = Full::new(Bytes::from(address.to_string()));
                    Ok::<_, Infallible>(Response::new(body))
                }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answer));
            tokio::select! {
                _ = &mut connection => return,
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        });
    }
    drop(listener);
    connections.join_all().await;
}

async fn read(response: Response<Incoming>) -> Result<(), BoxError> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let is_whole = status == StatusCode::OK && body.starts_with(b"127.0.0.1:");
    if is_whole { Ok(()) } else { Err(format!("{status} {body:?}").into()) }
}

pub(crate) async fn loses_no_request(engine: Engine) {
    let grace = Stop::AfterItSaidSo(Duration::from_millis(500));
    let Outcome { lost, answered, sent } = restart_all(engine, grace).await;
    assert_eq!(lost, Vec::<String>::new(), "lost");
    assert_eq!(answered, sent, "each was answered once");
}

/// So the other test would notice.
#[allow(dead_code, reason = "one engine is enough")]
pub(crate) async fn loses_requests_if_servers_stop_before_they_say_so(engine: Engine) {
    let Outcome { lost, answered, sent } = restart_all(engine, Stop::BeforeItSaysSo).await;
    assert!(!lost.is_empty() && answered < sent, "{answered} of {sent}");
}

/// Eight callers without a retry between them and the balancer.
async fn restart_all(engine: Engine, how: Stop) -> Outcome {
    let ids = ["one", "two", "three"];
    let mut running = BTreeMap::new();
    for id in ids {
        running.insert(id, Running::start(&engine, id).await);
    }
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build_http::<Empty<Bytes>>();
    let balance = Balance::new(engine.watch("rolling"), move |instance: &Instance| {
        let (client, authority) = (client.clone(), instance.authority());
        tower::service_fn(move |mut request: Request<Empty<Bytes>>| {
            let uri = format!("http://{authority}{}", request.uri().path());
            *request.uri_mut() = uri.parse().unwrap();
            client.request(request)
        })
    })
    .protocol(Http)
    .pick(LeastLoaded::new());
    let _connector = balance.spawn_connector::<Request<Empty<Bytes>>>();

    let (going, sent) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (balance, going, sent) = (balance.clone(), going.clone(), sent.clone());
            tokio::spawn(async move {
                let mut lost = Vec::new();
                while going.load(SeqCst) {
                    sent.fetch_add(1, SeqCst);
                    let call = balance.clone().oneshot(Request::new(Empty::new()));
                    let answer = async { read(call.await?).await }.await;
                    lost.extend(answer.err().map(|error| format!("{error:?}")));
                }
                lost
            })
        })
        .collect();
    let mut answered = 0;
    for id in ids {
        let so_far = sent.load(SeqCst);
        while sent.load(SeqCst) < so_far + 200 {
            sleep(Duration::from_millis(1)).await;
        }
        let Some(one) = running.remove(id) else { unreachable!("it was started") };
        answered += one.stop(how).await;
        running.insert(id, Running::start(&engine, id).await);
    }
    // Those that came take their part.
    let idle = || running.values().any(|one| one.answered.load(SeqCst) < 20);
    while idle() {
        sleep(Duration::from_millis(1)).await;
    }
    going.store(false, SeqCst);
    let mut lost = Vec::new();
    for caller in callers {
        lost.extend(caller.await.unwrap());
    }
    for (_, one) in running {
        answered += one.stop(Stop::AfterItSaidSo(Duration::ZERO)).await;
    }
    Outcome { lost, answered, sent: sent.load(SeqCst) }
}
