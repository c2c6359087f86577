//! The three commands at the head of `gateway.toml`, with a registry, the shop and its front door as processes of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod common;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use gusset_engines::Process;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

const FILE: &str = include_str!("../ecommerce_demo/gateway.toml");

/// The commands, as they stand there.
fn commands() -> Vec<&'static str> {
    let head = FILE.lines().take_while(|line| line.starts_with('#'));
    head.filter_map(|line| line.strip_prefix("#   ")).collect()
}

/// Runs a command in the folder of the workspace, as its reader does.
fn run(name: &str, line: &str) -> Process {
    let mut command = Command::new("sh");
    // In the shell's place, so that signals are for the program.
    command
        .args(["-c", &format!("exec env {line}")])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.envs([("GATEWAY_PORT", "0"), ("ADMIN_PORT", "0")]);
    Process::started(name, command)
}

/// The address that it says it listens on.
fn address(process: &mut Process, before: &str) -> String {
    let said = process.says(before);
    said[before.len()..].split([';', ' ']).next().unwrap().to_owned()
}

async fn told(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_commands_lead_to_a_shop_behind_a_gateway_where_one_registers_orders_and_is_limited()
{
    let commands = commands();
    let [registry, shop, gateway] = commands[..] else { panic!("{commands:?}") };
    let gusset = common::gusset().display().to_string();
    let secret = "SHOP_SECRET=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    assert_eq!(registry, "gusset registry");
    let mut registry = run("registry", &format!("{gusset} registry --listen 127.0.0.1:0"));
    let found = format!("http://{}", address(&mut registry, "http://"));

    let (before, options) =
        shop.split_once("cargo run --release --example ecommerce_demo --").unwrap();
    assert_eq!(before, "SHOP_SECRET=… ");
    let demo = common::program("ecommerce_demo");
    let options = options.replace("http://127.0.0.1:8500", &found);
    // At a port that is free, and with the shortest story.
    let options = options.replace("--port 8080", "--port 0 --seconds 10 --rps 1");
    let mut shop = run("shop", &format!("{secret} {} {options}", demo.display()));

    let rest = gateway.strip_prefix("SHOP_SECRET=… gusset gateway ").unwrap();
    assert!(
        FILE.contains("${SHOP_REGISTRY:-http://127.0.0.1:8500}"),
        "where a registry is by default"
    );
    // The demo listens on 8080, and its console on the port after it.
    assert!(
        !["8080}", "8081}", "8500}"].iter().any(|taken| FILE.contains(&format!("_PORT:-{taken}")))
    );
    let mut gateway =
        run("gateway", &format!("SHOP_REGISTRY={found} {secret} {gusset} gateway {rest}"));
    let front = format!("http://{}", address(&mut gateway, "gateway: http://"));
    // While the story is told, services come and go. It has no end in sight where others are busy as well.
    let begun = Instant::now();
    while !shop.log().contains("stays open until Ctrl-C") {
        assert!(shop.has_ended().is_none() && begun.elapsed() < Duration::from_secs(900));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let http = Client::new();
    let form = json!({ "email": "a@example.com", "name": "A", "password": "long enough" });
    let (status, user) = told(http.post(format!("{front}/api/users")).json(&form)).await;
    assert_eq!(status, 201, "{user}");
    let (status, login) = told(http.post(format!("{front}/api/login")).json(&form)).await;
    assert_eq!(status, 200, "{login}");
    let token = login["token"].as_str().unwrap();

    let (status, products) = told(http.get(format!("{front}/api/products"))).await;
    assert_eq!(status, 200, "{products}");
    let product = products[0]["id"].as_str().unwrap();

    let cart = format!("{front}/api/cart");
    let line = format!("{cart}/items/{product}");
    let put = || http.put(&line).json(&json!({ "quantity": 2 }));
    let (status, problem) = told(put()).await;
    assert_eq!((status, &problem["status"]), (401, &json!(401)), "{problem}");
    assert_eq!(told(put().bearer_auth("e30.e30.e30")).await.0, 401);
    assert_eq!(told(put().bearer_auth(token)).await.0, 200);
    let (status, filled) = told(http.get(&cart).bearer_auth(token)).await;
    assert!(status == 200 && filled.to_string().contains(product), "{filled}");

    let items = json!([{ "product_id": product, "quantity": 2 }]);
    let order = json!({ "items": items, "card": "4242424242424242" });
    let orders = format!("{front}/api/orders");
    let (status, placed) = told(http.post(&orders).bearer_auth(token).json(&order)).await;
    assert_eq!(status, 201, "{placed}");
    let placed = format!("{orders}/{}", placed["id"].as_str().unwrap());
    let begun = Instant::now();
    loop {
        let (status, order) = told(http.get(&placed).bearer_auth(token)).await;
        assert_eq!(status, 200, "{order}");
        // Paid for, and will be sent.
        if order["status"] == "confirmed" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{order}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // Fifty looks at the cart a minute.
    let mut refused = None;
    for _ in 0..200 {
        let answer = http.get(&cart).bearer_auth(token).send().await.unwrap();
        if answer.status() == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status(), 200);
    }
    let refused = refused.expect("nobody is limited");
    assert!(refused.headers().contains_key("retry-after"), "{refused:?}");

    let admin = format!("http://{}", address(&mut gateway, "operators on http://"));
    let routes = http.get(format!("{admin}/routes")).send().await.unwrap().text().await.unwrap();
    assert!(routes.contains("/api/cart") && routes.contains("order-service"), "{routes}");
    assert_eq!(gateway.stop().code(), Some(0));
}
