use serde_json::{Value, json};

use crate::server::Server;

async fn shop(server: &Server) {
    for (id, version, tags) in [("a", "1", json!(["blue"])), ("b", "2", json!(["blue", "canary"]))]
    {
        let body = json!({
            "Name": "cart", "ID": id, "Address": "10.0.0.7", "Port": 80, "Tags": tags,
            "Meta": {"version": version},
        });
        server.put("agent/service/register", body.to_string()).await.ok();
    }
    let body = json!({
        "Node": "far", "Address": "10.1.1.1", "NodeMeta": {"rack": "7"},
        "Service": {"Service": "cart", "ID": "c", "Port": 81},
        "Check": {"Name": "up", "ServiceID": "c", "Status": "warning"},
    });
    assert_eq!(server.put("catalog/register", body.to_string()).await.ok().text(), "true");
}

async fn ids(server: &Server, query: &str) -> Vec<String> {
    let entries = server.get(&format!("health/service/cart?{query}")).await.ok().json();
    let id = |entry: &Value| entry["Service"]["ID"].as_str().unwrap().into();
    entries.as_array().unwrap().iter().map(id).collect()
}

#[tokio::test(start_paused = true)]
async fn instances_are_found_by_health_tag_node_and_metadata() {
    let (server, _ticker) = Server::start();
    shop(&server).await;
    for (query, expected) in [
        ("", &["c", "a", "b"][..]),
        ("passing=1", &["a", "b"]),
        ("tag=blue", &["a", "b"]),
        ("tag=BLUE&tag=canary", &["b"]),
        ("near=_agent", &["a", "b", "c"]),
        ("near=far", &["c", "a", "b"]),
        ("node-meta=rack:7", &["c"]),
        ("filter=Service.Meta.version+%3D%3D+%222%22", &["b"]),
        ("filter=Node.Meta.rack==7", &["c"]),
        ("filter=%22canary%22+not+in+Service.Tags+and+Checks.Status+!%3D+warning", &["a"]),
        ("dc=dc1", &["c", "a", "b"]),
        ("dc=", &["c", "a", "b"]),
    ] {
        assert_eq!(ids(&server, query).await, expected, "{query}");
    }
    assert_eq!(server.get("health/service/cart?filter=a+b").await.status, 400);
    assert_eq!(server.get("health/service/cart?dc=mars").await.text(), "No path to datacenter\n");
}

#[tokio::test(start_paused = true)]
async fn the_catalog_shows_names_nodes_and_instances() {
    let (server, _ticker) = Server::start();
    shop(&server).await;
    let services = server.get("catalog/services").await.json();
    assert_eq!(services, json!({"cart": ["blue", "canary"]}));
    let instances = server.get("catalog/service/cart").await.json();
    assert_eq!(
        (&instances[0]["Node"], &instances[0]["Address"], &instances[0]["ServicePort"]),
        (&json!("far"), &json!("10.1.1.1"), &json!(81))
    );
    let nodes = server.get("catalog/nodes").await.json();
    assert_eq!((&nodes[0]["Node"], &nodes[1]["Node"]), (&json!("far"), &json!("gusset")));
    let node = server.get("catalog/node/far").await.json();
    assert_eq!(node["Services"]["c"]["Service"], "cart");
    assert!(server.get("catalog/node/none").await.json().is_null());
    assert_eq!(server.get("catalog/datacenters").await.json(), json!(["dc1"]));
}

#[tokio::test(start_paused = true)]
async fn a_check_that_somebody_else_makes_has_the_state_that_they_tell() {
    let (server, _ticker) = Server::start();
    shop(&server).await;
    let body = json!({
        "Node": "far", "SkipNodeUpdate": true,
        "Check": {"Name": "up", "ServiceID": "c", "Status": "passing"},
    });
    server.put("catalog/register", body.to_string()).await.ok();
    assert_eq!(ids(&server, "passing").await, ["c", "a", "b"]);
    let state = server.get("health/state/passing").await.json();
    assert_eq!(state[0]["ServiceID"], "c");
    assert!(server.get("health/state/critical").await.json().as_array().unwrap().is_empty());
    assert_eq!(server.get("health/state/fine").await.status, 400);
    assert_eq!(server.get("health/node/far").await.json()[0]["CheckID"], "up");
}

#[tokio::test(start_paused = true)]
async fn the_catalog_takes_back_a_check_a_service_or_a_node() {
    let (server, _ticker) = Server::start();
    shop(&server).await;
    server.put("catalog/deregister", r#"{"Node": "far", "CheckID": "up"}"#).await.ok();
    assert_eq!(ids(&server, "passing").await.len(), 3);
    server.put("catalog/deregister", r#"{"Node": "far", "ServiceID": "c"}"#).await.ok();
    assert_eq!(ids(&server, "").await, ["a", "b"]);
    shop(&server).await;
    server.put("catalog/deregister", r#"{"Node": "far"}"#).await.ok();
    server.put("catalog/deregister", r#"{"Node": "far"}"#).await.ok();
    assert_eq!(ids(&server, "").await, ["a", "b"]);
    assert_eq!(server.get("catalog/nodes").await.json().as_array().unwrap().len(), 1);
    assert_eq!(server.0.stats().instances, 2);
}

#[tokio::test(start_paused = true)]
async fn its_metrics_count_the_instances_of_each_service_by_state() {
    let (server, _ticker) = Server::start();
    shop(&server).await;
    let answer = server.get("agent/metrics?format=prometheus").await.ok();
    let text = answer.text();
    for line in [
        "gusset_registry_instances{service=\"cart\",status=\"passing\"} 2\n",
        "gusset_registry_instances{service=\"cart\",status=\"warning\"} 1\n",
        "gusset_registry_instances{service=\"cart\",status=\"critical\"} 0\n",
        "gusset_registry_keys 0\n",
        "gusset_registry_refused_total 0\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!(server.get("agent/metrics").await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn prometheus_is_told_of_all_targets_with_its_own_labels() {
    let (server, _ticker) = Server::start();
    shop(&server).await;
    server
        .put("agent/service/register", r#"{"Name": "six", "Address": "::1", "Port": 9}"#)
        .await
        .ok();
    let answer = server.get("prometheus").await.ok();
    assert_eq!(answer.headers["content-type"], "application/json");
    let groups = answer.json();
    assert_eq!(groups[0]["targets"], json!(["10.1.1.1:81"]));
    assert_eq!(groups[2]["labels"]["__meta_consul_tags"], ",blue,canary,");
    assert_eq!(groups[2]["labels"]["__meta_consul_service_metadata_version"], "2");
    assert_eq!(groups[3]["targets"], json!(["[::1]:9"]));
    assert_eq!(server.get("prometheus?service=six").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_everything_holds_up_no_heartbeat_and_misses_nobody() {
    let (server, _ticker) = Server::start();
    for n in 0..1_500 {
        let node = format!("node-{}", n % 2);
        let body = json!({
            "Node": node, "Address": "10.1.1.1",
            "Service": {"Service": format!("s{}", n % 7), "ID": format!("i{n}"), "Port": 80, "Tags": [format!("t{}", n % 3)]},
            "Check": {"Name": "up", "CheckID": format!("c{n}"), "ServiceID": format!("i{n}"), "Status": "passing"},
        });
        server.put("catalog/register", body.to_string()).await.ok();
    }
    let body = r#"{"Name": "beating", "ID": "b", "Check": {"TTL": "10s"}}"#;
    server.put("agent/service/register", body).await.ok();

    for (path, size) in
        [("health/state/any", 1_501), ("prometheus", 1_500), ("catalog/services", 8)]
    {
        let beaten = std::cell::Cell::new(false);
        let list = async {
            let answer = server.get(path).await.ok().json();
            assert!(beaten.get(), "{path}");
            answer
        };
        let beat = async {
            server.put("agent/check/pass/service:b", "").await.ok();
            beaten.set(true);
        };
        let (answer, ()) = futures_util::future::join(list, beat).await;
        let length = answer.as_array().map_or_else(|| answer.as_object().unwrap().len(), Vec::len);
        assert_eq!(length, size, "{path}");
    }
    let services = server.get("catalog/services").await.json();
    assert_eq!(services["s3"], json!(["t0", "t1", "t2"]));
}
