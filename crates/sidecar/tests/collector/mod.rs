//! A collector that keeps what it is sent, and answers by a script.

#![allow(dead_code, unreachable_pub, reason = "not every test uses all of it")]

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest,
        metrics::v1::ExportMetricsServiceRequest,
        trace::v1::{
            ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        },
    },
    common::v1::{AnyValue, KeyValue},
    logs::v1::LogRecord,
    metrics::v1::Metric,
    trace::v1::Span,
};
use prost::Message;

/// What the collector does with a request. After the script it takes all.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    /// With these header lines.
    Status(u16, &'static str),
    /// Takes all but so many.
    Partial(i64, &'static str),
    /// Takes it, and closes the connection.
    ThenClose,
    /// Never answers.
    Hang,
    /// Says that an answer comes, and sends no more of it.
    Drip,
}

#[derive(Clone)]
pub struct Collector {
    addr: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

#[derive(Clone)]
struct Received {
    head: String,
    body: Vec<u8>,
}

impl Collector {
    pub fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), script)
    }

    pub fn start_at(addr: SocketAddr, script: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind(addr).unwrap();
        let this = Self { addr: listener.local_addr().unwrap(), received: Arc::default() };
        let script: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(script.into_iter().collect()));
        let received = this.received.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (received, script) = (received.clone(), script.clone());
                let mut stream = BufReader::new(stream.unwrap());
                thread::spawn(move || {
                    while let Some(request) = read_request(&mut stream) {
                        let reply = script.lock().unwrap().pop_front();
                        // Before the answer: who has seen that has seen the request.
                        received.lock().unwrap().push(request);
                        if !answer(stream.get_mut(), reply) {
                            return;
                        }
                    }
                });
            }
        });
        this
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The heads of all requests, in lower case.
    pub fn heads(&self) -> Vec<String> {
        self.received.lock().unwrap().iter().map(|request| request.head.clone()).collect()
    }

    pub fn traces(&self) -> Vec<ExportTraceServiceRequest> {
        self.decoded("/v1/traces")
    }

    pub fn metrics(&self) -> Vec<ExportMetricsServiceRequest> {
        self.decoded("/v1/metrics")
    }

    /// Of the last request with metrics.
    pub fn figures(&self) -> Vec<Metric> {
        let request = self.metrics().pop().unwrap();
        let of_scopes = request.resource_metrics.into_iter().flat_map(|of| of.scope_metrics);
        of_scopes.flat_map(|scope| scope.metrics).collect()
    }

    pub fn spans(&self) -> Vec<Span> {
        let of_resources = self.traces().into_iter().flat_map(|request| request.resource_spans);
        let of_scopes = of_resources.flat_map(|resource| resource.scope_spans);
        of_scopes.flat_map(|scope| scope.spans).collect()
    }

    pub fn logs(&self) -> Vec<LogRecord> {
        let requests: Vec<ExportLogsServiceRequest> = self.decoded("/v1/logs");
        let of_resources = requests.into_iter().flat_map(|request| request.resource_logs);
        let of_scopes = of_resources.flat_map(|resource| resource.scope_logs);
        of_scopes.flat_map(|scope| scope.log_records).collect()
    }

    fn decoded<M: Message + Default>(&self, path: &str) -> Vec<M> {
        let received = self.received.lock().unwrap().clone();
        let of_path =
            received.into_iter().filter(|request| request.head.split(' ').nth(1) == Some(path));
        of_path.map(|request| M::decode(&*request.body).unwrap()).collect()
    }
}

fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Received> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_lowercase();
    let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Received { head, body })
}

/// False if the connection is over.
fn answer(stream: &mut TcpStream, reply: Option<Reply>) -> bool {
    let (status, headers, body) = match reply {
        None | Some(Reply::ThenClose) => (200, "", Vec::new()),
        Some(Reply::Status(status, headers)) => (status, headers, Vec::new()),
        Some(Reply::Partial(rejected_spans, why)) => {
            let partial = ExportTracePartialSuccess { rejected_spans, error_message: why.into() };
            (200, "", ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec())
        }
        Some(Reply::Hang) => return true,
        Some(Reply::Drip) => {
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 10\r\n\r\nx");
            return true;
        }
    };
    let length = body.len();
    let mut answer =
        format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n").into_bytes();
    answer.extend(body);
    stream.write_all(&answer).is_ok() && !matches!(reply, Some(Reply::ThenClose))
}

/// The value as text, such as `IntValue(7)`.
pub fn value(value: &AnyValue) -> String {
    value.value.as_ref().map_or_else(String::new, |value| match value {
        opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text) => text.clone(),
        other => format!("{other:?}"),
    })
}

pub fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let mut found = attributes.iter().filter(|pair| pair.key == key);
    let pair = found.next().unwrap_or_else(|| panic!("{key} in {attributes:?}"));
    assert!(found.next().is_none(), "{key} twice in {attributes:?}");
    value(pair.value.as_ref().unwrap())
}

pub fn text(text: &str) -> String {
    text.to_owned()
}
