use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Mutex,
};

use super::*;
use crate::{Ratio, Sidecar};

/// A collector that hands out what it is sent and answers each request with the next of its statuses, and 200 after those.
fn collector(statuses: &'static [u16]) -> (SocketAddr, mpsc::Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    let statuses = Arc::new(Mutex::new(statuses.iter()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (sender, statuses) = (sender.clone(), statuses.clone());
            let mut stream = BufReader::new(stream.unwrap());
            thread::spawn(move || {
                while let Some(received) = read_request(&mut stream) {
                    let status = *statuses.lock().unwrap().next().unwrap_or(&200);
                    // Before the answer: who has seen that has seen the request.
                    if sender.send(received).is_err() {
                        return;
                    }
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                    stream.get_mut().write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
    (addr, receiver)
}

#[derive(Debug)]
struct Received {
    head: String,
    body: Vec<u8>,
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

/// The fields of a protobuf message that have a length: number and content.
fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = message.split_first().unwrap();
            *message = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        match key & 7 {
            0 => drop(varint(&mut message)),
            1 => message = &message[8..],
            2 => {
                let length = usize::try_from(varint(&mut message)).unwrap();
                let (content, rest) = message.split_at(length);
                found.push((key >> 3, content));
                message = rest;
            }
            5 => message = &message[4..],
            wire => panic!("wire type {wire}"),
        }
    }
    found
}

fn field(message: &[u8], number: u64) -> Vec<&[u8]> {
    fields(message)
        .into_iter()
        .filter(|(of, _)| *of == number)
        .map(|(_, content)| content)
        .collect()
}

/// A span as the collector sees it.
#[derive(Debug, PartialEq)]
struct Span {
    service: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    name: String,
    attributes: String,
}

fn spans(body: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource_spans in field(body, 1) {
        let resource = String::from_utf8_lossy(field(resource_spans, 1)[0]).into_owned();
        for scope_spans in field(resource_spans, 2) {
            for span in field(scope_spans, 2) {
                spans.push(Span {
                    service: resource.clone(),
                    trace: field(span, 1)[0].to_vec(),
                    id: field(span, 2)[0].to_vec(),
                    parent: field(span, 4).first().map_or(Vec::new(), |id| id.to_vec()),
                    name: String::from_utf8_lossy(field(span, 5)[0]).into_owned(),
                    attributes: String::from_utf8_lossy(&field(span, 9).concat()).into_owned(),
                });
            }
        }
    }
    spans
}

fn exporter(recorder: &Recorder, addr: SocketAddr) -> Exporter {
    Otlp { every: Duration::from_millis(1), ..Otlp::new(recorder.clone()) }
        .endpoint(format!("http://{addr}"))
        .start()
        .unwrap()
}

async fn two_spans(sidecar: &Sidecar) {
    sidecar
        .intercept("outer", async {
            let inner = async { Err::<(), _>("no stock") };
            let _ = sidecar.intercept("inner", inner).tag("order.id", "7").await;
            Ok::<_, String>(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn spans_arrive_with_identifiers_parents_names_and_service() {
    let (addr, received) = collector(&[]);
    let sidecar = Sidecar::new("orders");
    let exporter = exporter(sidecar.recorder(), addr);
    two_spans(&sidecar).await;
    drop(exporter);

    let mut arrived = Vec::new();
    while let Ok(request) = received.try_recv() {
        assert!(request.head.starts_with("post /v1/traces "), "{}", request.head);
        assert!(request.head.contains("content-type: application/x-protobuf"));
        arrived.extend(spans(&request.body));
    }
    let [inner, outer] = &arrived[..] else { panic!("{arrived:?}") };
    assert_eq!((&*inner.name, &*outer.name), ("inner", "outer"));
    assert_eq!((&inner.parent, &inner.trace), (&outer.id, &outer.trace));
    assert!(outer.parent.is_empty() || outer.parent == [0; 8]);
    let record = &sidecar.recorder().recent(1)[0];
    assert_eq!(outer.trace, record.trace_id.get().to_be_bytes());
    assert_eq!(outer.id, record.span_id.get().to_be_bytes());
    assert!(outer.service.contains("orders"), "{}", outer.service);
    for text in ["order.id", "7", "error.type", "_OTHER"] {
        assert!(inner.attributes.contains(text), "{text} in {}", inner.attributes);
    }
}

#[tokio::test]
async fn what_a_collector_does_not_take_waits_and_arrives_later() {
    let (addr, received) = collector(&[503, 503]);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    let exporter = exporter(sidecar.recorder(), addr);
    let bodies: Vec<_> =
        (0..3).map(|_| received.recv_timeout(Duration::from_secs(10)).unwrap().body).collect();
    for body in &bodies {
        assert_eq!(spans(body).len(), 2);
    }
    let stats = exporter.stats.clone();
    drop(exporter);
    assert_eq!((stats.exported.load(Relaxed), stats.dropped.load(Relaxed)), (2, 0));
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_nobody_up_for_longer_than_the_bound() {
    // Bound, but nobody accepts.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sidecar = Sidecar::new("orders");
    let exporter = Otlp::new(sidecar.recorder().clone())
        .flush_within(Duration::from_millis(50))
        .endpoint(format!("http://{}", listener.local_addr().unwrap()))
        .start()
        .unwrap();
    two_spans(&sidecar).await;
    let began = std::time::Instant::now();
    drop(exporter);
    assert!(began.elapsed() < REQUEST, "{:?}", began.elapsed());
}

/// On the only worker, where others wait for a task that cannot run.
#[tokio::test(flavor = "current_thread")]
async fn the_last_export_needs_no_worker_of_the_runtime_it_is_dropped_in() {
    let (addr, received) = collector(&[]);
    let sidecar = Sidecar::new("orders");
    two_spans(&sidecar).await;
    drop(Otlp::new(sidecar.recorder().clone()).endpoint(format!("http://{addr}")).start().unwrap());
    assert_eq!(spans(&received.try_recv().unwrap().body).len(), 2);
}

#[test]
fn unsampled_calls_are_exported_only_if_they_failed_or_were_slow() {
    let otlp = Otlp::new(Recorder::new("s"));
    let sampled = record(true);
    assert!(otlp.wants(&sampled));
    let plain = record(false);
    assert!(!otlp.wants(&plain));
    assert!(otlp.wants(&Record { duration: Duration::from_secs(1), ..plain.clone() }));
    assert!(otlp.wants(&Record { status: Some(500), ..plain.clone() }));
    assert!(otlp.wants(&Record { end: End::Cancelled, ..plain }));
}

fn record(sampled: bool) -> Record {
    let recorder = Recorder::new("s");
    let sidecar = Sidecar::with_recorder(recorder.clone());
    let sidecar = sidecar.sample(if sampled { Ratio::ALL } else { Ratio::NONE });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(sidecar.intercept("work", async { Ok::<_, String>(()) })).unwrap();
    recorder.recent(1).remove(0)
}

#[test]
fn a_url_without_a_path_gets_the_one_of_the_specification() {
    for (given, used) in [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("http://collector/otlp/traces", "http://collector/otlp/traces"),
        ("nonsense", "nonsense"),
    ] {
        assert_eq!(with_path(given), used);
    }
}

#[test]
fn a_bad_endpoint_is_an_error_at_the_start() {
    let error = Otlp::new(Recorder::new("s")).endpoint("http://[bad").start().unwrap_err();
    assert_eq!(error.to_string(), "cannot set up telemetry: export of traces");
}

#[tokio::test]
async fn a_batch_that_was_taken_is_not_sent_again_for_the_sake_of_another() {
    let (addr, received) = collector(&[200, 503, 503]);
    let ring = Recorder::new("gateway");
    for service in ["orders", "payments"] {
        two_spans(&Sidecar::with_recorder(ring.for_service(service))).await;
    }
    let exporter = exporter(&ring, addr);
    let bodies: Vec<_> =
        (0..4).map(|_| received.recv_timeout(Duration::from_secs(10)).unwrap().body).collect();
    drop(exporter);
    assert!(received.try_recv().is_err());
    let services: Vec<_> = bodies.iter().map(|body| spans(body)[0].service.clone()).collect();
    assert_ne!(services[0], services[1]);
    assert_eq!(services[1..], [&*services[1]; 3]);
}
