use super::*;
use crate::{Record, Sidecar, spawn, telemetry};
use std::{future::Future, io};
use tracing::{Instrument, debug_span, info_span};

const MESSAGE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn run<F: Future<Output = ()>>(sidecar: &Sidecar, work: F) -> telemetry::Telemetry {
    let init = telemetry::init("orders").writer(io::sink).variables([("", "")]).filter("trace");
    let (dispatch, telemetry) = init.sidecar(sidecar).build().unwrap();
    let _default = tracing::dispatcher::set_default(&dispatch);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(work);
    telemetry
}

async fn call(sidecar: &Sidecar, work: impl Future<Output = ()>) {
    let work = async {
        work.await;
        Ok::<_, String>(())
    };
    sidecar.intercept("call", work).await.unwrap();
}

fn named(records: &[Record], name: &str) -> Record {
    let found = records.iter().find(|record| *record.operation == *name);
    found.unwrap_or_else(|| panic!("{name} in {records:?}")).clone()
}

#[test]
fn spans_of_a_handler_and_of_its_tasks_are_below_its_call() {
    let sidecar = Sidecar::new("orders");
    let _telemetry = run(&sidecar, async {
        info_span!("before").in_scope(|| ());
        call(&sidecar, async {
            let outer = info_span!("outer", order = 7, paid = field::Empty);
            let inner = async {
                debug_span!("detail").in_scope(|| info_span!("deep").in_scope(|| ()));
                call(&sidecar, async { info_span!("below").in_scope(|| ()) }).await;
                spawn(async { info_span!("task").in_scope(|| ()) }).await.unwrap();
                let task =
                    tokio::spawn(async { info_span!("bare").in_scope(|| ()) }.in_current_span());
                task.await.unwrap();
                info_span!(parent: None, "root").in_scope(|| ());
                let message = info_span!("process", span_id = "00f067aa0ba902b7");
                let of_message = Context::default().with_trace(MESSAGE.parse().unwrap());
                message.in_scope(|| of_message.sync_scope(|| info_span!("handle").in_scope(|| ())));
            };
            inner.instrument(outer.clone()).await;
            outer.record("paid", true);
        })
        .await;
    });
    let records = sidecar.recorder().recent(99);
    let names: Vec<_> = records.iter().map(|record| &*record.operation).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    let (outer, below) = (named(&records, "outer"), named(&records, "below"));
    let calls: Vec<_> = records.iter().filter(|record| &*record.operation == "call").collect();
    let [first, nested] = &calls[..] else { panic!("{calls:?}") };
    let (first, nested) = if first.parent_id.is_none() { (first, nested) } else { (nested, first) };
    assert_eq!(outer.parent_id, Some(first.span_id));
    assert_eq!(below.parent_id, Some(nested.span_id), "a call began in between");
    assert_eq!(named(&records, "deep").parent_id, Some(outer.span_id));
    assert_eq!(named(&records, "bare").parent_id, Some(outer.span_id));
    assert_eq!(named(&records, "task").parent_id, Some(outer.span_id));
    let handle = named(&records, "handle");
    let message: TraceContext = MESSAGE.parse().unwrap();
    assert_eq!(handle.parent_id, Some(message.span_id()), "a message is recorded by the broker");
    assert!(records.iter().all(|record| record.trace_id == first.trace_id || *record == handle));
    assert_eq!(outer.tags, [("order".into(), "7".into()), ("paid".into(), "true".into())]);
    assert!(outer.start_unix_nanos >= first.start_unix_nanos);
    assert!(outer.duration <= first.duration);
}

#[test]
fn what_a_handler_opens_in_a_loop_is_bounded_and_counted() {
    let sidecar = Sidecar::new("orders");
    let telemetry = run(&sidecar, async {
        call(&sidecar, async {
            for _ in 0..100 {
                let text = "é".repeat(500);
                info_span!(
                    "step",
                    text,
                    a = 1,
                    b = 1,
                    c = 1,
                    d = 1,
                    e = 1,
                    f = 1,
                    g = 1,
                    h = 1,
                    i = 1,
                    j = 1,
                    k = 1,
                    l = 1,
                    m = 1,
                    n = 1,
                    o = 1,
                    p = 1
                )
                .in_scope(|| ());
            }
        })
        .await;
        call(&sidecar, async { info_span!("another").in_scope(|| ()) }).await;
    });
    let records = sidecar.recorder().recent(999);
    let steps: Vec<_> = records.iter().filter(|record| &*record.operation == "step").collect();
    assert_eq!((steps.len(), telemetry.spans_left_out()), (usize::from(SPANS), 36));
    assert!(steps.iter().all(|step| step.tags.len() == 16 && step.tags[0].1.len() <= 256));
    named(&records, "another");
}

#[test]
fn a_task_that_works_for_many_calls_is_in_the_trace_of_each() {
    let sidecar = Sidecar::new("orders");
    let _telemetry = run(&sidecar, async {
        let mut worker = None;
        call(&sidecar, async { worker = Some(info_span!("worker")) }).await;
        let other = TraceContext::new_root();
        let work = async { info_span!("job").in_scope(|| ()) }.instrument(worker.unwrap());
        Context::default().with_trace(other).scope(work).await;
        let records = sidecar.recorder().recent(9);
        let job = named(&records, "job");
        assert_eq!((job.trace_id, job.parent_id), (other.trace_id(), Some(other.span_id())));
    });
}

#[test]
fn a_recorder_that_keeps_nothing_costs_nothing() {
    let off = Recorder::with_capacity("s", 0);
    assert!(HandlerSpans::new(Some(&off), Arc::default()).is_none());
    assert!(HandlerSpans::new(None, Arc::default()).is_none());
}
