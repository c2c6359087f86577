//! A whole process that ends, and what its collector has then.

#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod collector;

use std::{
    io,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use collector::Collector;
use gusset_sidecar::{
    Sidecar,
    telemetry::{self, Otlp},
};

const URL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HOW: &str = "GUSSET_TEST_ENDS";

/// The process under test is this test again, in a process of its own.
#[test]
fn however_a_process_ends_its_collector_has_all_it_recorded() {
    if let Ok(how) = std::env::var(HOW) {
        return process(&how);
    }
    for (how, well) in [("in main", true), ("in its only worker", true), ("in a panic", false)] {
        let collector = Collector::start([]);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "however_a_process_ends_its_collector_has_all_it_recorded"])
            .env_clear()
            .env(URL, collector.url())
            .env("OTEL_SERVICE_NAME", "of-the-environment")
            .env(HOW, how)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let began = Instant::now();
        let status = command.status().unwrap();
        assert_eq!(status.success(), well, "{how}");
        assert!(began.elapsed() < Duration::from_secs(60), "{how}: {:?}", began.elapsed());
        assert_eq!((collector.spans().len(), collector.logs().len()), (700, 100), "{how}");
        assert!(!collector.figures().is_empty(), "{how}");
        let resource = collector.traces().remove(0).resource_spans.remove(0).resource.unwrap();
        let name = collector::attribute(&resource.attributes, "service.name");
        assert_eq!(name, "of-the-environment");
    }
}

fn process(how: &str) {
    let sidecar = Sidecar::new("orders");
    let otlp = Otlp::new().every(Duration::from_secs(3600));
    let init = telemetry::init("orders").writer(io::sink).sidecar(&sidecar).otlp(otlp);
    let telemetry = init.start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let work = async {
        for n in 0..700 {
            sidecar.intercept("work", async { Ok::<_, String>(()) }).await.unwrap();
            if n % 7 == 0 {
                tracing::info!(n, "hello");
            }
        }
    };
    if how == "in main" {
        runtime.block_on(work);
        drop(telemetry);
        return;
    }
    runtime.block_on(async {
        work.await;
        let _telemetry = telemetry;
        assert!(how != "in a panic", "as it was told");
    });
}
