//! What goes on when the file changes, and what does not.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use gusset_gateway::config::{Reloading, Resources};
use gusset_sidecar::Metrics;
use http::Request;
use tower::ServiceExt;

use crate::{File, ask, common::*};

fn file(address: std::net::SocketAddr, of_route: &str) -> String {
    format!(
        "[upstreams.shop]\naddresses = [\"{address}\"]\n[[routes]]\npath = \"/{{*rest}}\"\nto = \"shop\"\n{of_route}\n"
    )
}

#[tokio::test]
async fn a_file_that_is_wrong_changes_nothing_and_is_told() {
    let running = upstream(Router::new().route("/a", get(|| async { "a" }))).await;
    let shop = running.address;
    let on_disk = File::new("wrong", &file(shop, ""));
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    let hash = reloading.status().hash;
    on_disk.write(&file(shop, "timeout = 5"));
    let errors = reloading.reload().unwrap_err().to_string();
    assert!(
        errors.contains("gateway.toml:6:11: routes[0].timeout: 5 is no span of time"),
        "{errors}"
    );
    let status = reloading.status();
    assert_eq!((status.hash.as_str(), status.reloads), (hash.as_str(), 0));
    assert_eq!(status.error.as_deref(), Some(errors.as_str()));
    assert_eq!(ask(&reloading, "/a").await, 200);

    on_disk.write(&file(shop, "methods = [\"POST\"]"));
    let reloaded = reloading.reload().unwrap();
    assert_eq!(reloading.status().hash, reloaded.hash);
    assert!(reloading.status().error.is_none() && reloaded.needs_restart.is_empty());
    assert_eq!(ask(&reloading, "/a").await, 405);
}

#[tokio::test]
async fn quotas_counters_and_circuits_go_on_where_they_are_the_same() {
    let running = upstream(Router::new().route("/a", get(|| async { "a" }))).await;
    let shop = running.address;
    let limited =
        |rate: &str| file(shop, &format!("quota = {{ rate = \"{rate}\", by = \"all\" }}"));
    let on_disk = File::new("goes-on", &limited("1/h"));
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    assert_eq!(ask(&reloading, "/a").await, 200);
    assert_eq!(ask(&reloading, "/a").await, 429);
    reloading.live().current().breakers()[0].circuit.force_open();

    on_disk.write(&format!("# another line\n{}", limited("1/h")));
    reloading.reload().unwrap();
    assert_eq!(ask(&reloading, "/a").await, 429, "the quota goes on");
    assert_eq!(reloading.live().current().stats()[0].answered(), 3);
    assert!(!reloading.live().current().breakers()[0].circuit.is_eligible());

    on_disk.write(&limited("2/h"));
    reloading.reload().unwrap();
    assert_eq!(ask(&reloading, "/a").await, 503, "another quota, the same circuit");
    on_disk.write(&format!("[defaults.breaker]\nfailures_in_a_row = 9\n{}", limited("2/h")));
    reloading.reload().unwrap();
    assert_eq!(ask(&reloading, "/a").await, 200, "another circuit");
}

#[tokio::test]
async fn the_page_of_metrics_goes_on_and_tells_what_became_of_the_file() {
    let running = upstream(Router::new().route("/a", get(|| async { "a" }))).await;
    let shop = running.address;
    let on_disk = File::new("page", &file(shop, ""));
    let metrics = Metrics::new();
    let resources = Resources::default().metrics(metrics.clone());
    let reloading = Reloading::open(&on_disk.0, resources).unwrap();
    assert_eq!(ask(&reloading, "/a").await, 200);
    on_disk.write(&file(shop, "timeout = \"5s\""));
    reloading.reload().unwrap();
    assert_eq!(ask(&reloading, "/a").await, 200);
    let page = metrics.render_prometheus();
    for line in [
        format!("gusset_calls_total{{upstream=\"{shop}\"}} 2\n"),
        "gusset_config_reloads_total 1\n".into(),
        "gusset_config_last_reload_successful 1\n".into(),
    ] {
        assert!(page.contains(&line), "{line} in {page}");
    }
    assert!(page.contains("process_resident_memory_bytes ") || !cfg!(target_os = "linux"));
    on_disk.write("no file at all");
    reloading.reload().unwrap_err();
    assert!(metrics.render_prometheus().contains("gusset_config_last_reload_successful 0\n"));
}

#[tokio::test]
async fn what_needs_a_restart_is_told_and_left() {
    let running = upstream(Router::new().route("/a", get(|| async { "a" }))).await;
    let shop = running.address;
    let on_disk = File::new("restart", &file(shop, ""));
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    on_disk.write(&format!("[server]\ntrusted_proxies = [\"10.0.0.0/8\"]\n{}", file(shop, "")));
    // There was no such table before.
    assert_eq!(reloading.reload().unwrap().needs_restart, ["server"]);
    on_disk.write(&format!("[admin]\nlisten = \"127.0.0.1:1\"\n{}", file(shop, "")));
    assert_eq!(reloading.reload().unwrap().needs_restart, ["admin"]);
}

#[tokio::test]
async fn a_change_of_the_file_is_seen() {
    let running = upstream(Router::new().route("/a", get(|| async { "a" }))).await;
    let shop = running.address;
    let on_disk = File::new("follows", &file(shop, ""));
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    let following = tokio::spawn({
        let reloading = reloading.clone();
        async move { reloading.follow().await }
    });
    on_disk.write(&file(shop, "methods = [\"POST\"]"));
    let until = Instant::now() + Duration::from_secs(60);
    while reloading.status().reloads == 0 {
        assert!(Instant::now() < until, "the change was not seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ask(&reloading, "/a").await, 405);
    following.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_fail_no_request() {
    let running = upstream(Router::new().route("/a", get(|| async { "a" }))).await;
    let shop = running.address;
    let on_disk = File::new("under-load", &file(shop, ""));
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (reloading, over, asked) = (reloading.clone(), over.clone(), asked.clone());
            tokio::spawn(async move {
                while !over.load(Relaxed) {
                    assert_eq!(ask(&reloading, "/a").await, 200);
                    asked.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    for number in 0..100 {
        let before = asked.load(Relaxed);
        on_disk.write(&file(shop, &format!("timeout = \"{}s\"", 10 + number)));
        let reloading = reloading.clone();
        tokio::task::spawn_blocking(move || reloading.reload().unwrap()).await.unwrap();
        while asked.load(Relaxed) < before + 8 {
            tokio::task::yield_now().await;
        }
    }
    over.store(true, Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(reloading.status().reloads, 100);
    assert_eq!(reloading.live().current().stats()[0].answered(), asked.load(Relaxed));
}

#[tokio::test]
async fn each_request_is_a_line_of_the_log_when_its_answer_has_ended() {
    let running = upstream(Router::new().route("/a", get(|| async { "abc" }))).await;
    let shop = running.address;
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("config-log");
    let _ = fs::remove_dir_all(&folder);
    let on_disk = File::new("log", &format!("[access_log]\nfile = \"log\"\n{}", file(shop, "")));
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    let request = Request::get("http://shop/a?token=s3cret");
    let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    let answer = reloading.live().clone().oneshot(request).await.unwrap();
    assert_eq!(text(answer).await, "abc");
    assert_eq!(ask(&reloading, "/a%22\\\\b").await, 400);
    reloading.flush(Duration::from_secs(60));
    let log = fs::read_to_string(folder.join("log")).unwrap();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert_eq!((&lines[0]["status"], &lines[0]["bytes"]), (&200.into(), &3.into()));
    assert_eq!(lines[0]["path"], "/a");
    assert_eq!(lines[0]["route"], "/{*rest}");
    assert_eq!(lines[0]["trace_id"].as_str().unwrap().len(), 32);
    assert!(lines[0].get("cut").is_none());
    // Nobody read it to its end.
    assert_eq!(lines[1]["cut"], true);
    assert!(!log.contains("s3cret"));
}

/// A token of `subject` for an hour.
fn token(secret: &str, subject: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let claims = format!(r#"{{"sub":"{subject}","aud":"shop","exp":99999999999}}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[tokio::test]
async fn a_change_of_a_secret_is_seen_and_the_old_one_is_worth_nothing() {
    let running = upstream(Router::new().route("/a", get(|| async { "a" }))).await;
    let (old, new) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
    let text = format!(
        "[jwt]\nsecret = {{ file = \"secret\" }}\naudience = \"shop\"\n{}",
        file(running.address, "authenticated = true")
    );
    let on_disk = File::new("secret", "");
    let secret = on_disk.0.with_file_name("secret");
    fs::write(&secret, format!("{old}\n")).unwrap();
    on_disk.write(&text);
    let reloading = Reloading::open(&on_disk.0, Resources::default()).unwrap();
    assert_eq!(reloading.config().files(), std::slice::from_ref(&secret));
    let asked = async |with: &str| {
        let request = Request::get("http://shop/a");
        let request = request.header("authorization", format!("Bearer {}", token(with, "ann")));
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        reloading.live().clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!((asked(old).await, asked(new).await), (200, 401));
    let following = tokio::spawn({
        let reloading = reloading.clone();
        async move { reloading.follow().await }
    });
    // Of another length: whoever looks at times alone would miss a quick one.
    fs::write(&secret, new).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while reloading.status().reloads == 0 {
        assert!(Instant::now() < until, "the change was not seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    following.abort();
    assert_eq!((asked(old).await, asked(new).await), (401, 200));
}
