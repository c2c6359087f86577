//! The same collector over gRPC: tonic's server, with the services that are generated from the published protocol.

#![cfg(feature = "otlp-grpc")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod collector;
mod support;

use std::{
    collections::VecDeque,
    future::pending,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use collector::attribute;
use gusset_sidecar::{
    Sidecar,
    telemetry::{self, Otlp, Telemetry},
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tonic::{
    Code, Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};
use tracing::Dispatch;

/// What it does with a request for traces. After the script it takes all.
#[derive(Clone, Debug)]
enum Reply {
    Fail(Status),
    Partial(i64),
    Hang,
}

#[derive(Clone, Default)]
struct Collector {
    script: Arc<Mutex<VecDeque<Reply>>>,
    traces: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    logs: Arc<Mutex<Vec<ExportLogsServiceRequest>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
    keys: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let key = request.metadata().get("x-key").unwrap().to_str().unwrap().to_owned();
        self.keys.lock().unwrap().push(key);
        self.traces.lock().unwrap().push(request.into_inner());
        let reply = self.script.lock().unwrap().pop_front();
        match reply {
            None => Ok(Response::new(Default::default())),
            Some(Reply::Fail(status)) => Err(status),
            Some(Reply::Hang) => pending().await,
            Some(Reply::Partial(rejected_spans)) => {
                let error_message = "too old".into();
                let partial = ExportTracePartialSuccess { rejected_spans, error_message };
                let partial_success = Some(partial);
                Ok(Response::new(ExportTraceServiceResponse { partial_success }))
            }
        }
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.logs.lock().unwrap().push(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.metrics.lock().unwrap().push(request.into_inner());
        Ok(Response::new(Default::default()))
    }
}

impl Collector {
    /// On a runtime of its own, so that one whose only worker is blocked is not the server's.
    fn start(script: impl IntoIterator<Item = Reply>) -> (Self, SocketAddr) {
        let this = Self::default();
        this.script.lock().unwrap().extend(script);
        let (service, (sender, addr)) = (this.clone(), mpsc::channel());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                let server = Server::builder()
                    .add_service(TraceServiceServer::new(service.clone()))
                    .add_service(LogsServiceServer::new(service.clone()))
                    .add_service(MetricsServiceServer::new(service));
                server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
            });
        });
        let addr = addr.recv().unwrap();
        (this, addr)
    }

    fn spans(&self) -> usize {
        let traces = self.traces.lock().unwrap();
        let of_scopes = traces.iter().flat_map(|request| &request.resource_spans[0].scope_spans);
        of_scopes.map(|scope| scope.spans.len()).sum()
    }
}

fn exporting(sidecar: &Sidecar, addr: SocketAddr, otlp: Otlp) -> (Dispatch, Telemetry) {
    let init = telemetry::init("orders").writer(io::sink).variables([
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{addr}")),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=k1"),
    ]);
    init.sidecar(sidecar).otlp(otlp.every(Duration::from_millis(5))).build().unwrap()
}

async fn two_spans(sidecar: &Sidecar) {
    for _ in 0..2 {
        sidecar.intercept("work", async { Ok::<_, String>(()) }).await.unwrap();
    }
}

/// What ended others after 21 s with all data lost: the only worker of a runtime ends the export.
#[tokio::test(flavor = "current_thread")]
async fn over_grpc_all_signals_arrive_though_the_only_worker_ends_the_export() {
    let (collector, addr) = Collector::start([]);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    let (dispatch, telemetry) = exporting(&sidecar, addr, Otlp::new());
    tracing::dispatcher::with_default(&dispatch, || tracing::info!("hello"));
    let began = Instant::now();
    drop(telemetry);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(collector.spans(), 2);
    let traces = collector.traces.lock().unwrap();
    let resource = traces[0].resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name"), "orders");
    let logs = collector.logs.lock().unwrap();
    assert_eq!(logs[0].resource_logs[0].scope_logs[0].log_records.len(), 1);
    assert!(!collector.metrics.lock().unwrap().is_empty());
    assert_eq!(collector.keys.lock().unwrap()[0], "k1");
}

#[tokio::test]
async fn over_grpc_later_means_later_and_never_means_never() {
    let script = [
        Reply::Fail(Status::new(Code::Unavailable, "not yet")),
        Reply::Fail(Status::new(Code::InvalidArgument, "never")),
        Reply::Partial(1),
    ];
    let (collector, addr) = Collector::start(script);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    let (dispatch, telemetry) = exporting(&sidecar, addr, Otlp::new());
    let began = Instant::now();
    while telemetry.export_stats().unwrap().traces.rejected < 2 {
        assert!(began.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stats = telemetry.export_stats().unwrap().traces;
    assert_eq!((stats.failures, stats.rejected, stats.exported), (1, 2, 0));
    two_spans(&sidecar).await;
    assert!(telemetry.flush().await);
    let stats = telemetry.export_stats().unwrap().traces;
    assert_eq!((stats.failures, stats.rejected, stats.exported), (1, 3, 1));
    assert_eq!(collector.traces.lock().unwrap().len(), 3);
    drop((dispatch, telemetry));
}

#[tokio::test]
async fn over_grpc_a_collector_that_hangs_holds_nobody_up_for_longer_than_the_bound() {
    let (_collector, addr) = Collector::start([Reply::Hang, Reply::Hang]);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    let bound = Duration::from_millis(100);
    let (dispatch, telemetry) = exporting(&sidecar, addr, Otlp::new().flush_within(bound));
    let began = Instant::now();
    drop((dispatch, telemetry));
    let took = began.elapsed();
    assert!(took >= bound && took < Duration::from_secs(9), "{took:?}");
}
