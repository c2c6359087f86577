//! Settings out of layers, as a program reads and follows them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use gusset::config::{Config, Live};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    name: String,
    server: Server,
    hosts: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Server {
    port: u16,
    tls: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { name: "shop".into(), server: Server::default(), hosts: vec!["a".into()] }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self { port: 80, tls: false }
    }
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("gusset-config-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.0.join("shop.toml");
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config() -> Config<Settings> {
    Config::new()
}

#[test]
fn a_later_layer_wins_and_tables_are_merged() {
    let folder = Folder::new("layers");
    let file =
        folder.write("name = \"file\"\nhosts = [\"b\", \"c\"]\n[server]\nport = 81\ntls = true\n");
    let vars = [("SHOP_SERVER__PORT", "82"), ("SHOPPING", "1"), ("OTHER_NAME", "x")];
    let settings = config().file(file).vars("SHOP", vars).load().unwrap();
    assert_eq!((&*settings.name, settings.server), ("file", Server { port: 82, tls: true }));
    assert_eq!(settings.hosts, ["b", "c"]);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let folder = Folder::new("errors");
    let told = |config: Config<Settings>| config.load().unwrap_err().to_string();
    let has = |text: &str, parts: &[&str]| {
        assert!(parts.iter().all(|part| text.contains(part)), "{text}: {parts:?}");
    };
    has(
        &told(config().vars("SHOP", [("SHOP_SERVER__PORT", "high")])),
        &["server.port", "SHOP_SERVER__PORT", "high"],
    );
    has(&told(config().vars("SHOP", [("SHOP_SERVER__PORT", "70000")])), &["server.port", "70000"]);
    has(
        &told(config().vars("SHOP", [("SHOP_SERVER__PROT", "1")])),
        &["unknown field `prot`", "server.prot in the variable SHOP_SERVER__PROT"],
    );
    has(
        &told(config().file(folder.write("[sever]\nport = 81\n"))),
        &["unknown field `sever`", "there is sever in /", "shop.toml"],
    );
    has(&told(config().file(folder.write("[server]\nport = \n"))), &["shop.toml", "line 2"]);
    has(
        &told(config().file(folder.write("[server]\ntls = \"maybe\"\n"))),
        &["server.tls", "shop.toml"],
    );
    has(&told(config().file("/nowhere/shop.toml")), &["/nowhere/shop.toml"]);
    assert_eq!(config().file_if_there("/nowhere/shop.toml").load().unwrap(), Settings::default());

    let checked = config()
        .check(|settings| match settings.server.port {
            0..1024 => Err("server.port: below 1024 is for root".into()),
            _ => Ok(()),
        })
        .check(|_| Ok(()))
        .check(|settings| match &*settings.name {
            "shop" => Err("name: it needs one of its own".into()),
            _ => Ok(()),
        });
    assert_eq!(told(checked), "server.port: below 1024 is for root; name: it needs one of its own");
}

async fn refused(live: &Live<Settings>) -> String {
    timeout(Duration::from_secs(60), async {
        loop {
            if let Some(error) = live.refused() {
                return error.to_string();
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_in_force_and_a_wrong_one_changes_nothing() {
    let folder = Folder::new("follow");
    let file = folder.write("[server]\nport = 81\n");
    let mut live = config().file(&file).follow().await.unwrap();
    assert_eq!(live.get().server.port, 81);

    folder.write("[server]\nport = 82\n");
    assert_eq!(live.changed().await.server.port, 82);

    folder.write("[server]\nport = \"wide\"\n");
    assert!(refused(&live).await.contains("server.port"));
    assert_eq!(live.get().server.port, 82);

    fs::remove_file(&file).unwrap();
    while !refused(&live).await.contains("shop.toml:") {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(live.get().server.port, 82);

    folder.write("[server]\nport = 83\n");
    assert_eq!(live.changed().await.server.port, 83);
    assert!(live.refused().is_none());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_any_more_when_the_last_of_its_users_has_gone() {
    let checks = Arc::new(());
    let held = checks.clone();
    let config = config().check(move |_| {
        let _ = &held;
        Ok(())
    });
    let live = config.follow().await.unwrap();
    let clone = live.clone();
    drop(live);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(Arc::strong_count(&checks), 2);
    drop(clone);
    while Arc::strong_count(&checks) > 1 {
        sleep(Duration::from_millis(1)).await;
    }
}

#[cfg(all(feature = "consul", feature = "remote"))]
#[tokio::test]
async fn keys_of_the_registry_are_followed_and_win_over_the_file() {
    use gusset::registry::{ConsulPolicy, ConsulServer, RemoteKv, RemotePolicy};

    let server = ConsulServer::new(ConsulPolicy::default());
    let _ticker = server.spawn_ticker();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback_service(server);
    tokio::spawn(async move { axum::serve(listener, router).await });

    let kv = RemoteKv::new(&url, RemotePolicy::default()).unwrap();
    let folder = Folder::new("keys");
    let file = folder.write("[server]\nport = 81\n");
    let watch = kv.watch("shop/").unwrap();
    let mut live = config().file(file).kv(watch, "shop/").follow().await.unwrap();
    assert_eq!(live.get().server.port, 81);

    kv.put("shop/server/port", "82").await.unwrap();
    let next = timeout(Duration::from_secs(60), live.changed()).await.unwrap();
    assert_eq!(next.server.port, 82);

    kv.put("shop/server/port", "wide").await.unwrap();
    let told = refused(&live).await;
    assert!(told.contains("the key shop/server/port"), "{told}");
    assert_eq!(live.get().server.port, 82);

    kv.delete("shop/server/port").await.unwrap();
    let next = timeout(Duration::from_secs(60), live.changed()).await.unwrap();
    assert_eq!(next.server.port, 81);
}
