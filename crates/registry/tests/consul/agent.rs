use std::time::Duration;

use gusset_registry::ConsulPolicy;
use serde_json::json;
use tokio::time::sleep;

use crate::server::Server;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn a_ttl_check_is_critical_until_the_first_heartbeat_and_after_silence() {
    let (server, _ticker) = Server::start();
    server.register("cart", "a").await;
    assert!(server.passing("cart").await.is_empty());
    server.pass("a").await;
    for _ in 0..3 {
        sleep(seconds(8)).await;
        assert_eq!(server.passing("cart").await, ["a"]);
        server.pass("a").await;
    }
    sleep(seconds(11)).await;
    assert!(server.passing("cart").await.is_empty());
    let checks = server.get("agent/checks").await.json();
    let check = &checks["service:a"];
    assert_eq!(check["Status"], "critical");
    assert!(check["Output"].as_str().unwrap().starts_with("TTL expired"));
    server.pass("a").await;
    assert_eq!(server.passing("cart").await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_server_is_nobodys_silence() {
    let (server, _ticker) = Server::start();
    server.register("cart", "a").await;
    server.pass("a").await;
    sleep(seconds(5)).await;
    // The whole process stands still, its ticks as well.
    tokio::time::advance(seconds(3_600)).await;
    sleep(seconds(4)).await;
    assert_eq!(server.passing("cart").await, ["a"]);
    sleep(seconds(2)).await;
    assert!(server.passing("cart").await.is_empty(), "silence that was heard counts");
}

#[tokio::test(start_paused = true)]
async fn warn_and_fail_take_an_instance_out_of_passing_and_update_says_any() {
    let (server, _ticker) = Server::start();
    server.register("cart", "a").await;
    for (change, status) in [("warn", "warning"), ("fail", "critical"), ("pass", "passing")] {
        server.put(&format!("agent/check/{change}/service:a?note=because"), "").await.ok();
        let check = server.get("health/checks/cart").await.json();
        assert_eq!(
            (check[0]["Status"].as_str(), check[0]["Output"].as_str()),
            (Some(status), Some("because"))
        );
        assert_eq!(server.passing("cart").await.len(), usize::from(status == "passing"));
    }
    let body = r#"{"status": "warning", "output": "slow"}"#;
    server.put("agent/check/update/service:a", body).await.ok();
    let check = server.get("agent/checks").await.json()["service:a"].clone();
    assert_eq!(
        (check["Status"].as_str(), check["Output"].as_str()),
        (Some("warning"), Some("slow"))
    );
    let answer = server.put("agent/check/update/service:a", r#"{"Status": "fine"}"#).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test(start_paused = true)]
async fn what_is_critical_for_too_long_is_deregistered_and_not_before_a_minute() {
    let (server, _ticker) = Server::start();
    let body = json!({
        "Name": "cart", "ID": "a",
        "Check": {"TTL": "10s", "Status": "passing", "DeregisterCriticalServiceAfter": "1s"},
    });
    server.put("agent/service/register", body.to_string()).await.ok();
    sleep(seconds(69)).await;
    assert_eq!(server.get("health/service/cart").await.json().as_array().unwrap().len(), 1);
    sleep(seconds(2)).await;
    assert!(server.get("health/service/cart").await.json().as_array().unwrap().is_empty());
    assert_eq!(server.put("agent/check/pass/service:a", "").await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn registering_again_keeps_what_the_checks_said_and_begins_the_ttl_anew() {
    let (server, _ticker) = Server::start();
    server.register("cart", "a").await;
    server.pass("a").await;
    sleep(seconds(8)).await;
    server.register("cart", "a").await;
    sleep(seconds(8)).await;
    assert_eq!(server.passing("cart").await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn checks_that_are_not_named_again_stay_unless_they_are_to_be_replaced() {
    let (server, _ticker) = Server::start();
    server.register("cart", "a").await;
    let check = r#"{"Name": "disk", "ServiceID": "a", "TTL": "10s"}"#;
    server.put("agent/check/register", check).await.ok();
    let checks = async || server.get("agent/checks").await.json().as_object().unwrap().len();
    server.register("cart", "a").await;
    assert_eq!(checks().await, 2);
    let body = r#"{"Name": "cart", "ID": "a", "Check": {"TTL": "10s"}}"#;
    server.put("agent/service/register?replace-existing-checks=true", body).await.ok();
    assert_eq!(checks().await, 1);
}

#[tokio::test(start_paused = true)]
async fn maintenance_is_a_critical_check_until_it_ends() {
    let (server, _ticker) = Server::start();
    server.register("cart", "a").await;
    server.pass("a").await;
    server.put("agent/service/maintenance/a?enable=true&reason=new+disk", "").await.ok();
    assert!(server.passing("cart").await.is_empty());
    let checks = server.get("agent/checks").await.json();
    assert_eq!(checks["_service_maintenance:a"]["Notes"], "new disk");
    server.put("agent/service/maintenance/a?enable=false", "").await.ok();
    server.put("agent/service/maintenance/a?enable=false", "").await.ok();
    assert_eq!(server.passing("cart").await, ["a"]);
    assert_eq!(server.put("agent/service/maintenance/a", "").await.status, 400);
    assert_eq!(server.put("agent/service/maintenance/b?enable=true", "").await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn several_checks_are_numbered_and_the_worst_decides() {
    let (server, _ticker) = Server::start();
    let body =
        r#"{"Name": "cart", "Checks": [{"TTL": "10s", "Status": "passing"}, {"TTL": "10s"}]}"#;
    server.put("agent/service/register", body).await.ok();
    assert!(server.passing("cart").await.is_empty());
    server.put("agent/check/pass/service:cart:2", "").await.ok();
    assert_eq!(server.passing("cart").await, ["cart"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_unknown_is_told_so_with_404() {
    let (server, _ticker) = Server::start();
    for path in
        ["agent/check/pass/service:a", "agent/service/deregister/a", "agent/check/deregister/x"]
    {
        let answer = server.put(path, "").await;
        assert!(answer.status == 404 && answer.text().starts_with("Unknown"), "{path}: {answer:?}");
    }
    assert_eq!(server.get("agent/service/a").await.status, 404);
    let check = r#"{"Name": "disk", "ServiceID": "a", "TTL": "10s"}"#;
    assert_eq!(server.put("agent/check/register", check).await.status, 404);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_not_served_is_refused_rather_than_ignored() {
    let (server, _ticker) = Server::start();
    for (check, said) in [
        (r#"{"HTTP": "http://h/", "Interval": "10s"}"#, "HTTP: active checks are not made here"),
        (r#"{"TCP": "h:1", "Interval": "10s"}"#, "TCP: active checks are not made here"),
        (r#"{"GRPC": "h:1", "Interval": "10s"}"#, "GRPC: active checks are not made here"),
        (r#"{"Args": ["rm"]}"#, "Check.Args: only TTL, HTTP, TCP and gRPC checks are served"),
        (r#"{"Interval": "10s"}"#, "Check.TTL: missing, and so are HTTP, TCP and GRPC"),
        (r#"{"TTL": "1s", "TCP": "h:1", "Interval": "1s"}"#, "Check.TTL: a check is of one kind"),
    ] {
        let body = format!(r#"{{"Name": "cart", "Check": {check}}}"#);
        let answer = server.put("agent/service/register", body).await;
        assert!(answer.status == 400 && answer.text().starts_with(said), "{answer:?}");
    }
    assert_eq!(server.0.stats().instances, 0);
}

#[tokio::test(start_paused = true)]
async fn ids_with_a_colon_are_found_encoded_or_not() {
    let (server, _ticker) = Server::start();
    server.register("cart", "10.0.0.7:80").await;
    server.put("agent/check/pass/service%3A10.0.0.7%3A80", "").await.ok();
    assert_eq!(server.passing("cart").await, ["10.0.0.7:80"]);
    server.put("agent/service/deregister/10.0.0.7:80", "").await.ok();
    assert_eq!(server.0.stats().instances, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_registry_refuses_new_instances_and_keeps_those_it_has() {
    let most = std::num::NonZeroUsize::new(2).unwrap();
    let (server, _ticker) = Server::with(ConsulPolicy::default().instances(most));
    server.register("cart", "a").await;
    server.register("cart", "b").await;
    let full = server.put("agent/service/register", r#"{"Name": "cart", "ID": "c"}"#).await;
    assert_eq!((full.status, server.0.stats().refused), (507, 1));
    server.register("cart", "a").await;
    server.put("agent/service/deregister/a", "").await.ok();
    server.register("cart", "c").await;
    let checks = (0..17).map(|_| r#"{"TTL": "10s"}"#).collect::<Vec<_>>().join(",");
    let body = format!(r#"{{"Name": "cart", "ID": "c", "Checks": [{checks}]}}"#);
    assert_eq!(server.put("agent/service/register", body).await.status, 400);
}
