//! The gateway as a process, for `benches/gateway/compare`. No bench of criterion's: a program in the profile of benches.
//!
//! `front LISTEN UPSTREAM CORES plain|full|routes`: `plain` has one route with what a gateway always does (deadline, circuit, retries, metrics, trace
//! headers); `full` adds a quota, an unsampled recorder and spans, and a line in an access log for each request (to `/dev/null`, by write calls as to a file); `routes` is `plain` among 10,000 other routes.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

use std::{future::pending, net::SocketAddr, num::NonZeroUsize};

use gusset_gateway::{AccessLog, Builder, Gateway, Route, Server, Upstream};
use gusset_ratelimit::Quota;
use gusset_registry::MemoryRegistry;
use gusset_sidecar::Recorder;

fn main() {
    // `cargo bench` adds `--bench`, and calls programs that nobody asked for.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let [listen, upstream, cores, kind] = arguments.as_slice() else { return };
    let listen: SocketAddr = listen.parse().expect("an address to listen at");
    let upstream: SocketAddr = upstream.parse().expect("the address of the upstream");
    let cores: NonZeroUsize = cores.parse().expect("a number of cores");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let gateway = gateway(upstream, kind).build().expect("the routes are valid");
        let server = Server::new().max_connections(20_000);
        server.run_on_cores(cores, listen, gateway, pending()).await.expect("the port is free");
    });
}

fn null_log() -> AccessLog {
    let null = std::fs::File::options().write(true).open("/dev/null").expect("there is one");
    AccessLog::to(null).expect("a thread can be had")
}

fn gateway(upstream: SocketAddr, kind: &str) -> Builder {
    let to = || Upstream::fixed([upstream]);
    // Bodies of any size are measured.
    let route = Route::new("/{*rest}").to(to()).body_limit(u64::MAX);
    let gateway = Gateway::builder(MemoryRegistry::default());
    match kind {
        "plain" => gateway.route(route),
        "full" => gateway
            .route(route.quota(Quota::per_second(10_000_000)))
            .recorder(Recorder::with_capacity("gateway", 1024))
            .access_log(null_log()),
        "routes" => (0..10_000).fold(gateway.route(route), |gateway, n| {
            gateway.route(Route::new(format!("/api/v1/thing{n}/{{id}}/parts/{{part}}")).to(to()))
        }),
        other => unreachable!("no kind {other}"),
    }
}
