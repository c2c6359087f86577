//! Whatever clients send, the server answers, and goes on.

use gusset_registry::ConsulPolicy;
use http::Method;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Map, Value};
use tokio::time::{Duration, sleep};

use crate::server::Server;

const FIELDS: &[&str] = &[
    "Name",
    "ID",
    "Port",
    "Check",
    "Checks",
    "TTL",
    "Meta",
    "Tags",
    "Weights",
    "Passing",
    "Warning",
    "CheckID",
    "ServiceID",
    "Status",
    "DeregisterCriticalServiceAfter",
    "HTTP",
    "TCP",
    "Interval",
    "Timeout",
    "Node",
    "Address",
    "Service",
    "Output",
    "TaggedAddresses",
    "lan",
    "NodeMeta",
    "SkipNodeUpdate",
    "gusset-incarnation",
];
const TEXTS: &[&str] = &[
    "cart",
    "a",
    "",
    "10s",
    "10ms",
    "0",
    "-1s",
    "5000000000000000h",
    "99999999999h",
    "passing",
    "critical",
    "http://127.0.0.1:1/",
    "127.0.0.1:1",
    "gusset",
    "18446744073709551615",
];
const PATHS: &[&str] = &[
    "agent/service/register",
    "agent/check/register",
    "catalog/register",
    "catalog/deregister",
    "agent/check/update/a",
    "agent/check/pass/service:cart",
    "agent/check/fail/service:a",
    "agent/service/maintenance/cart?enable=true",
    "agent/service/deregister/a",
    "kv/a",
    "kv/a/b",
    "kv/",
    "health/service/cart",
    "health/state/any",
    "catalog/services",
    "catalog/node/gusset",
    "agent/metrics",
    "prometheus",
    "agent/services",
    "agent/service/register?replace-existing-checks",
    "health/checks/cart",
    "status/leader",
];
const QUERIES: &[&str] = &[
    "",
    "index=1&wait=1ms",
    "index=18446744073709551615&wait=5000000000000000h",
    "recurse",
    "raw",
    "keys&separator=/",
    "cas=0",
    "cas=18446744073709551615",
    "flags=18446744073709551615",
    "filter=Service.Port==1",
    "filter=((",
    "note=%ff",
    "gusset-incarnation=18446744073709551615",
    "near=_agent",
    "tag=",
    "node-meta=a:b",
    "pretty",
    "dc=other",
    "passing=%",
];

fn body() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..4_u64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(TEXTS).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 40, 8, |inner| {
        let field = (select(FIELDS), inner.clone());
        let object = |fields: Vec<(&str, Value)>| {
            fields.into_iter().map(|(name, value)| (name.into(), value)).collect::<Map<_, _>>()
        };
        prop_oneof![
            vec(inner, 0..4).prop_map(Value::from),
            vec(field, 0..8).prop_map(move |fields| Value::Object(object(fields))),
        ]
    });
    // Mostly something that is taken, with one thing changed.
    (value, select(FIELDS), any::<bool>()).prop_map(|(value, field, whole)| {
        if whole {
            return value;
        }
        let mut known = serde_json::json!({
            "Name": "cart", "ID": "a", "Port": 80, "Node": "far", "Address": "h", "Status": "passing",
            "Check": {"TTL": "5000000000000000h", "Status": "passing"}, "Service": {"Service": "cart"},
        });
        known[field] = value;
        known
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_request_makes_the_server_fail_or_stops_its_clock(
        requests in vec((select(PATHS), select(QUERIES), body(), any::<bool>()), 1..16),
        noise in vec(any::<u8>(), 0..64),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let (server, _ticker) = Server::with(ConsulPolicy::default());
            for (path, query, body, put) in requests {
                let method = if put { Method::PUT } else { Method::GET };
                let sign = if path.contains('?') { '&' } else { '?' };
                let path = format!("{path}{sign}{query}");
                let answer = server.call(method, &path, body.to_string()).await;
                let elsewhere = answer.status == 500 && query == "dc=other";
                prop_assert!(answer.status < 500 || elsewhere, "{path}: {answer:?}");
            }
            server.put("agent/service/register", noise.clone()).await;
            server.put("kv/noise", noise).await;
            // Long enough for every TTL that is not one for ever.
            sleep(Duration::from_secs(100)).await;
            server.register("last", "last").await;
            server.pass("last").await;
            prop_assert_eq!(server.passing("last").await, ["last"]);
            sleep(Duration::from_secs(11)).await;
            prop_assert!(server.passing("last").await.is_empty(), "the clock stands");
            Ok(())
        })?;
    }
}
