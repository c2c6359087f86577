use std::{num::NonZeroUsize, time::Duration};

use http::{Request, header};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::{runtime, time::timeout};
use tower_service::Service;

use super::{ConsulPolicy, ConsulServer, filter_parser::parse};

/// Most that a server may hold here.
const FEW: usize = 4;

/// Requests to one server, an empty line between them: `PUT /v1/kv/name?cas=0` in the first line, the body behind it. A blocked one is given up.
pub fn server(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_time().build() else { return };
    let few = NonZeroUsize::new(FEW).unwrap_or(NonZeroUsize::MIN);
    let server = ConsulServer::new(ConsulPolicy::default().instances(few).keys(few));
    runtime.block_on(async {
        for request in text.split("\n\n").take(8) {
            asked(server.clone(), request).await;
            let stats = server.stats();
            assert!(
                stats.instances <= FEW && stats.keys <= FEW && stats.watchers == 0,
                "{stats:?}"
            );
        }
        server.tick().await;
        for path in
            ["/v1/agent/services", "/v1/health/state/any", "/v1/catalog/nodes", "/v1/kv/?recurse"]
        {
            asked(server.clone(), &format!("GET {path}")).await;
        }
        asked(server, "GET /v1/agent/metrics?format=prometheus").await;
    });
}

async fn asked(mut server: ConsulServer, request: &str) {
    let (head, body) = request.split_once('\n').unwrap_or((request, ""));
    let Some((method, target)) = head.split_once(' ') else { return };
    let body = Full::<bytes::Bytes>::from(body.as_bytes().to_vec());
    let Ok(request) = Request::builder().method(method).uri(target).body(body) else { return };
    let Ok(Ok(answer)) = timeout(Duration::ZERO, server.call(request)).await else { return };
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let known = !head.status.is_server_error() || head.status == 507;
    assert!(
        known || body.starts_with(b"No path to datacenter"),
        "{} to {target:?}: {body:?}",
        head.status
    );
    let json =
        head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    assert!(!json || serde_json::from_slice::<Value>(&body).is_ok(), "{target:?}: {body:?}");
}

/// An expression in the first line, and what it is asked of: it holds or its opposite does.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (expression, shown) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(filter) = parse(expression) else { return };
    let shown = serde_json::from_str(shown).unwrap_or(Value::Null);
    let holds = filter.holds(&shown);
    if let Ok(opposite) = parse(&format!("not ({expression})")) {
        assert_ne!(opposite.holds(&shown), holds, "{expression:?} of {shown}");
    }
    if let Ok(again) = parse(&format!("({expression}) and ({expression})")) {
        assert_eq!(again.holds(&shown), holds, "{expression:?} of {shown}");
    }
}

/// The log of keys, and behind an empty line a catalog. The same log with right hashes is read up to where it makes no sense.
#[cfg(feature = "file")]
pub fn kept(data: &[u8]) {
    let at = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let (log, catalog) = (&data[..at], data.get(at + 2..).unwrap_or_default());
    super::kv_log::fuzz(log);
    super::saver::fuzz(catalog);
}
