//! A service in axum that calls another one: one trace, a retry, a deadline that reaches both, and what the metrics say.
//!
//! `cargo run --example sidecar_axum`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Router,
    extract::{MatchedPath, Path, State},
    routing::get,
};
use bytes::Bytes;
use gusset::{
    call::{Attempt, BoxError, Context, Deadline, DeadlineExceeded, Problem, refusal_in},
    sidecar::{Outbound, Record, ReplayBody, Sidecar, SpanKind, Waterfall, spawn},
};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{net::TcpListener, time::sleep};
use tower::{Layer, ServiceExt};

type Http = Client<HttpConnector, ReplayBody<Full<Bytes>>>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (browser, shop, stock) = (sidecar("browser"), sidecar("shop"), sidecar("stock"));
    let http: Http = Client::builder(TokioExecutor::new()).build_http();

    let stock_at = serve(Router::new().route("/items/{item}", get(count)), &stock).await?;
    let to_stock = shop.outbound("stock").layer(http.clone());
    let desk = Desk { sidecar: shop.clone(), stock: to_stock, stock_at };
    let router = Router::new().route("/offers/{item}", get(offer)).with_state(desk);
    let shop_at = serve(router, &shop).await?;
    let to_shop = browser.outbound("shop").layer(http);
    let get = |item: &str| Request::get(format!("http://{shop_at}/offers/{item}"));

    println!("the stock refuses at first, and nobody notices:");
    let (status, text) = ask(&to_shop, get("lamp").body(Full::default())?).await?;
    println!("  browser: {status}, {text}");

    let all = || [&browser, &shop, &stock].map(|sidecar| sidecar.recorder().recent(100)).concat();
    let of_trace = |records: &[Record]| {
        let newest = browser.recorder().recent(1).pop().map(|call| call.trace_id);
        let of_it = records.iter().filter(|record| Some(record.trace_id) == newest);
        of_it.cloned().collect::<Vec<_>>()
    };
    let noted = || of_trace(&all()).iter().any(|record| record.kind == SpanKind::Internal);
    until(noted).await;
    println!("\nits trace, of three services, with the note that was written after the answer:");
    print!("{}", Waterfall::new(&of_trace(&all())));

    println!("\nthe browser waits for 200 ms only, and the stock is slow:");
    let patience = Deadline::after(Duration::from_millis(200));
    let hasty = get("sofa").extension(patience).body(Full::default())?;
    match ask(&to_shop, hasty).await {
        // Whoever is first: the services end with the deadline as well.
        Ok((StatusCode::GATEWAY_TIMEOUT, _)) => println!("  browser: no answer in time"),
        Err(error) if error.is::<DeadlineExceeded>() => println!("  browser: no answer in time"),
        other => println!("  browser: {other:?}"),
    }
    until(|| LEFT.load(Relaxed)).await;

    println!("\nwhat Prometheus is told of it, among others:");
    for sidecar in [&shop, &stock] {
        let text = sidecar.metrics().render_prometheus();
        let lines = text.lines().filter(|line| {
            line.starts_with("gusset_retries_total")
                || line.contains("request_duration_seconds_count{")
        });
        lines.for_each(|line| println!("  {line}"));
    }
    Ok(())
}

/// With the routes that axum has matched.
fn sidecar(service: &'static str) -> Sidecar {
    Sidecar::new(service)
        .route_of(|extensions| Some(extensions.get::<MatchedPath>()?.as_str().to_owned().into()))
}

/// Serves on a free port, with all layers around it.
async fn serve(router: Router, sidecar: &Sidecar) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let router = router.layer(sidecar.inbound());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(addr)
}

/// What the handlers of the shop work with.
#[derive(Clone)]
struct Desk {
    sidecar: Sidecar,
    stock: Outbound<Http>,
    stock_at: SocketAddr,
}

async fn offer(State(desk): State<Desk>, Path(item): Path<String>) -> Result<String, Problem> {
    let request = Request::get(format!("http://{}/items/{item}", desk.stock_at));
    let request = request.body(Full::default()).map_err(|error| broken(error.into()))?;
    let (status, count) = ask(&desk.stock, request).await.map_err(broken)?;
    if !status.is_success() {
        return Err(Problem::new(status));
    }
    // Goes on after the answer, in the same trace.
    let note = async {
        sleep(Duration::from_millis(5)).await;
        Ok::<_, Infallible>(())
    };
    spawn(desk.sidecar.intercept("note", note));
    Ok(format!("{count} of {item}"))
}

async fn count(Path(item): Path<String>) -> Result<&'static str, StatusCode> {
    static STARTED: AtomicBool = AtomicBool::new(false);
    let (attempt, deadline) = (Attempt::current(), Context::current().deadline());
    let left = deadline.map_or(Duration::MAX, |deadline| deadline.remaining());
    let unit = if left > Duration::from_secs(1) { "seconds" } else { "moments" };
    println!("  stock:   attempt {attempt} for {item}, there are {unit} left");
    if !STARTED.swap(true, Relaxed) {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    if item == "sofa" {
        let _left = Left;
        sleep(Duration::from_secs(60)).await;
    }
    Ok("3")
}

static LEFT: AtomicBool = AtomicBool::new(false);

/// Dropped with the handler that it is in.
struct Left;

impl Drop for Left {
    fn drop(&mut self) {
        println!("  stock:   nobody waits any more, so the handler ends");
        LEFT.store(true, Relaxed);
    }
}

async fn ask(
    client: &Outbound<Http>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, String), BoxError> {
    let answer = client.clone().oneshot(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A refusal has an answer of its own, such as 504 or 503 with `Retry-After`.
fn broken(error: BoxError) -> Problem {
    refusal_in(&*error).map_or_else(|| Problem::new(StatusCode::BAD_GATEWAY), Problem::of)
}

async fn until(holds: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}
