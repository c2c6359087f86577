//! A real Prometheus scrapes a service, and its tools read the page.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{
    convert::Infallible,
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use gusset_engines::Process;
use gusset_sidecar::{Histogram, Metrics, ReplayBody, Route, Sidecar};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tower::{Layer, ServiceExt, service_fn};

type Page = Full<Bytes>;

/// A service with a bit of everything: served and failed calls, one under way, calls by gRPC and of clients, and figures of its own.
async fn busy() -> Sidecar {
    let sidecar = Sidecar::new("orders");
    let inbound = sidecar.inbound();
    for status in [200, 200, 404, 500] {
        let answer = service_fn(move |_: Request<Page>| async move {
            let answer = Response::builder().status(status).extension(Route::from("/orders/{id}"));
            answer.body(Page::from("x"))
        });
        let answered = inbound.layer(answer).oneshot(Request::new(Page::default())).await;
        answered.unwrap().into_body().collect().await.unwrap();
    }
    let grpc = service_fn(|_: Request<Page>| async {
        let answer = Response::builder().header("content-type", "application/grpc");
        answer.header("grpc-status", "13").body(Page::default())
    });
    let call = Request::post("/shop.Orders/Take").version(http::Version::HTTP_2);
    let call = call.header("content-type", "application/grpc").body(Page::default()).unwrap();
    drop(inbound.layer(grpc).oneshot(call).await);
    let upstream = service_fn(|_: Request<ReplayBody<Page>>| async {
        Ok::<_, Infallible>(Response::new(Page::default()))
    });
    drop(sidecar.outbound("payments").layer(upstream).oneshot(Request::new(Page::default())).await);
    sidecar.intercept("restock", async { Ok::<_, Infallible>(()) }).await.unwrap();

    let metrics = sidecar.metrics();
    metrics.counter_by("orders_total", "Orders taken.", ["channel"]).with(["we\"b\\\n"]).add(3);
    metrics.gauge("warehouse_temperature_celsius", "Temperature.").set(-4.5);
    let sizes = metrics.histogram_by("order_size_bytes", "Sizes.", Histogram::BYTES, ["kind"]);
    sizes.with(["gift"]).record(300.0);
    sidecar
}

async fn page(metrics: &Metrics, accept: &str) -> Response<Page> {
    let request = Request::get("/metrics").header("accept", accept).body(Page::default());
    metrics.endpoint().oneshot(request.unwrap()).await.unwrap()
}

#[tokio::test]
async fn promtool_finds_nothing_to_complain_of() {
    let sidecar = busy().await;
    let text = page(sidecar.metrics(), "*/*").await.into_body().collect().await.unwrap();
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool of the Debian package `prometheus`");
    tool.stdin.take().unwrap().write_all(&text.to_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[tokio::test]
async fn only_a_look_is_answered() {
    let metrics = Metrics::new();
    metrics.counter("orders_total", "Orders taken.").increment();
    let full = page(&metrics, "application/openmetrics-text").await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(full.headers()[CONTENT_TYPE], kind);
    let text = full.into_body().collect().await.unwrap().to_bytes();
    assert!(text.ends_with(b"orders_total 1\n# EOF\n"), "{text:?}");

    let ask = |method: &str| Request::builder().method(method).body(Page::default()).unwrap();
    let head = metrics.endpoint().oneshot(ask("HEAD")).await.unwrap();
    let plain = metrics.endpoint().oneshot(ask("GET")).await.unwrap();
    assert_eq!(head.headers(), plain.headers());
    assert!(head.into_body().collect().await.unwrap().to_bytes().is_empty());
    let refused = metrics.endpoint().oneshot(ask("POST")).await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["allow"]),
        (405, &"GET, HEAD".parse().unwrap())
    );
}

/// Serves the page on a port of its own, for as long as the runtime.
async fn serve(metrics: &Metrics) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, endpoint) = (listener.local_addr().unwrap(), metrics.endpoint());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(endpoint.clone());
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(served);
        }
    });
    address
}

/// A Prometheus that scrapes one target. It ends with this.
struct Prometheus {
    _process: Process,
    address: String,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Self {
        let config = format!(
            "scrape_configs: [{{job_name: shop, scrape_interval: 200ms, scrape_timeout: 200ms, \
             static_configs: [{{targets: ['{target}'], labels: {{zone: a}}}}]}}]\n"
        );
        let mut process = Process::new("prometheus", |folder| {
            std::fs::write(folder.join("prometheus.yml"), config).unwrap();
            let mut command = Command::new("prometheus");
            command
                .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
                .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
                .args(["--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage"]);
            command
        });
        process.start();
        let words = "msg=\"Listening on\" address=";
        let address = process.says(words)[words.len()..].trim().to_owned();
        Self { _process: process, address }
    }

    async fn get(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let ask = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let json = answer.split_once("\r\n\r\n").unwrap().1;
        // While it starts it answers in plain text.
        serde_json::from_str::<Value>(json).unwrap_or_default()["data"].clone()
    }

    /// What it answers, as soon as `enough`.
    async fn wait_for(&self, path: &str, enough: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = self.get(path).await;
            if enough(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{path}: {answer}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn prometheus_scrapes_the_page_with_its_own_labels_and_finds_the_traces() {
    let sidecar = busy().await;
    let address = serve(sidecar.metrics()).await;
    let prometheus = Prometheus::start(address);
    let there = |answer: &Value| answer["result"].as_array().is_some_and(|all| !all.is_empty());

    let orders = prometheus.wait_for("/api/v1/query?query=orders_total", there).await;
    let [one] = &orders["result"].as_array().unwrap()[..] else { panic!("{orders}") };
    let labels = serde_json::json!({
        "__name__": "orders_total", "channel": "we\"b\\\n",
        "instance": address.to_string(), "job": "shop", "zone": "a",
    });
    assert_eq!((&one["metric"], &one["value"][1]), (&labels, &"3".into()));

    let target = &prometheus.get("/api/v1/targets").await["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()));

    // Nothing of ours stands where Prometheus has its own labels.
    let names = prometheus.get("/api/v1/labels").await;
    let names: Vec<_> =
        names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with("exported_")), "{names:?}");

    let count = "sum(http_server_request_duration_seconds_count{http_route=\"/orders/{id}\"})";
    let query = format!("/api/v1/query?query={}", escaped(count));
    assert_eq!(prometheus.get(&query).await["result"][0]["value"][1], "4");
    let rate = "rpc_server_call_duration_seconds_count{rpc_method=\"shop.Orders/Take\",error_type=\"INTERNAL\"}";
    let query = format!("/api/v1/query?query={}", escaped(rate));
    assert_eq!(prometheus.get(&query).await["result"][0]["value"][1], "1");
    let middle = "histogram_quantile(0.5, order_size_bytes_bucket)";
    let query = format!("/api/v1/query?query={}", escaped(middle));
    let size: f64 =
        prometheus.get(&query).await["result"][0]["value"][1].as_str().unwrap().parse().unwrap();
    assert!((256.0..=1024.0).contains(&size), "{size}");
    let age = "time() - process_start_time_seconds";
    assert!(there(&prometheus.get(&format!("/api/v1/query?query={}", escaped(age))).await));

    let kinds =
        prometheus.get("/api/v1/metadata?metric=http_server_request_duration_seconds").await;
    let kind = &kinds["http_server_request_duration_seconds"][0];
    assert_eq!(
        (&kind["type"], &kind["help"]),
        (&"histogram".into(), &"Duration of HTTP server requests.".into())
    );

    let recorded = sidecar.recorder().recent(9);
    let failed = recorded.iter().find(|record| record.status == Some(500)).unwrap();
    let query = "http_server_request_duration_seconds_bucket{error_type=\"500\"}";
    let query = format!("/api/v1/query_exemplars?query={}&start=0&end=9999999999", escaped(query));
    let found = prometheus.wait_for(&query, |answer| !answer[0].is_null()).await;
    let exemplar = &found[0]["exemplars"][0]["labels"];
    assert_eq!(exemplar["trace_id"], failed.trace_id.to_string(), "{found}");
    assert_eq!(exemplar["span_id"], failed.span_id.to_string());
}

/// Text as it may stand in a query.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}
