//! A registry in a process of its own that is killed, started again, and stopped for a while.
//!
//! This program is the server as well: it runs one of its tests, which otherwise does nothing. What is said between the two is made for this
//! test: one line of JSON each way over a socket in the folder.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_core::future::BoxFuture;
use gusset_engines::{Process, again};
use gusset_registry::{
    Error, Health, Instance, InstanceKey, MemoryRegistry, Policy, Registration, RegistrationState,
    Registry, Snapshot, Watch,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

const TTL: Duration = Duration::from_secs(3);
/// What a busy machine may take beyond.
const BUSY: Duration = Duration::from_secs(15);

/// A server, with its file and its socket in its folder.
struct Server(Process);

impl Server {
    fn start() -> Self {
        let mut process = Process::new("process", |folder| {
            let mut command = again("as_the_server");
            command.env("GUSSET_REGISTRY_PROCESS", folder);
            command
        });
        process.start();
        Self(process)
    }

    fn client(&self) -> Client {
        Client { socket: self.0.folder().join("socket") }
    }

    fn file(&self) -> PathBuf {
        self.0.folder().join("registry.json")
    }

    fn saved(&self) -> usize {
        let file = fs::read(self.file()).unwrap_or_default();
        let saved = serde_json::from_slice(&file).unwrap_or(Value::Null);
        saved["instances"].as_array().map_or(0, Vec::len)
    }
}

/// The body of the server; nothing in a run of the tests.
#[tokio::test]
async fn as_the_server() {
    let Some(folder) = std::env::var_os("GUSSET_REGISTRY_PROCESS") else { return };
    let folder = PathBuf::from(folder);
    // No protection: what keeps the instances is to be the file, and that a pause is no silence.
    let policy = Policy::default().ttl(TTL).sweep_every(Duration::from_millis(100)).never_protect();
    let registry = MemoryRegistry::new(policy);
    let _sweeper = registry.spawn_sweeper();
    let _saver = registry.spawn_saver(folder.join("registry.json"), Duration::ZERO).unwrap();
    let socket = folder.join("socket");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let registry = registry.clone();
            tokio::spawn(async move { drop(serve(stream, &registry).await) });
        }
    });
    // Until it is killed.
    std::future::pending::<()>().await;
}

async fn serve(stream: UnixStream, registry: &MemoryRegistry) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let asked: Value = serde_json::from_str(&line)?;
    let text = |field: &str| asked[field].as_str().unwrap_or_default();
    let key = InstanceKey::new(text("service"), text("id"))
        .with_incarnation(asked["incarnation"].as_u64().unwrap_or(0));
    let done = match text("what") {
        "register" => registry.register(serde_json::from_value(asked["instance"].clone())?).await,
        "heartbeat" => registry.heartbeat(key).await,
        "drain" => registry.drain(key).await,
        "deregister" => registry.deregister(key).await,
        _ => Ok(()),
    };
    let instances = registry.instances(text("service")).await;
    let instances = instances.map_or_else(|_| Vec::new(), |all| all.instances().to_vec());
    let answer = json!({
        "unknown": done.as_ref().is_err_and(Error::is_not_found),
        "error": done.err().map(|error| error.to_string()),
        "instances": instances,
        "expired": registry.stats().expired,
    });
    stream.write_all(format!("{answer}\n").as_bytes()).await
}

#[derive(Clone, Debug)]
struct Client {
    socket: PathBuf,
}

impl Client {
    async fn ask(&self, question: Value) -> std::io::Result<Value> {
        let mut stream = BufReader::new(UnixStream::connect(&self.socket).await?);
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        Ok(serde_json::from_str(&line)?)
    }

    async fn tell(&self, question: Value, key: InstanceKey<'_>) -> Result<(), Error> {
        let answer = self.ask(question).await.map_err(|error| Error::Unavailable(error.into()))?;
        match answer["error"].as_str() {
            None => Ok(()),
            Some(_) if answer["unknown"] == true => {
                Err(Error::NoSuchInstance { service: key.service.into(), id: key.id.into() })
            }
            Some(error) => Err(Error::Unavailable(error.into())),
        }
    }

    async fn tell_of(&self, what: &str, key: InstanceKey<'_>) -> Result<(), Error> {
        let InstanceKey { service, id, incarnation, .. } = key;
        let question =
            json!({ "what": what, "service": service, "id": id, "incarnation": incarnation });
        self.tell(question, key).await
    }

    /// How many are healthy, how many of them suspect, and how many ever expired.
    async fn looks(&self) -> Option<(usize, usize, u64)> {
        let answer = self.ask(json!({ "service": "cart" })).await.ok()?;
        let all: Vec<Instance> = serde_json::from_value(answer["instances"].clone()).unwrap();
        let healthy = all.iter().filter(|instance| instance.health == Health::Healthy);
        let suspect = healthy.clone().filter(|instance| instance.suspect);
        Some((healthy.count(), suspect.count(), answer["expired"].as_u64().unwrap()))
    }
}

impl Registry for Client {
    fn ttl(&self) -> Duration {
        TTL
    }

    fn register(&self, instance: Instance) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let question = json!({ "what": "register", "instance": instance });
            self.tell(question, instance.key()).await
        })
    }

    fn heartbeat<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.tell_of("heartbeat", key))
    }

    fn drain<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.tell_of("drain", key))
    }

    fn deregister<'a>(&'a self, key: InstanceKey<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.tell_of("deregister", key))
    }

    fn instances<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Arc<Snapshot>, Error>> {
        Box::pin(async move { Err(Error::NoSuchService { service: service.into() }) })
    }

    fn services(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>, Error>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn watch(&self, service: &str) -> Watch {
        Watch::fixed(service, [])
    }
}

/// Waits for `condition`, but not for ever.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < Duration::from_secs(40), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begin.elapsed()
}

async fn twenty(server: &Server) -> Vec<Registration> {
    let spawn = |n| Registration::spawn(server.client(), Instance::new("cart", "10.0.0.7", n));
    let all: Vec<_> = (0..20).map(spawn).collect();
    for registration in &all {
        registration.registered().await.unwrap();
    }
    all
}

fn all_are(registrations: &[Registration], wanted: fn(RegistrationState) -> bool) -> bool {
    registrations.iter().all(|registration| wanted(registration.state()))
}

const fn is_retrying(state: RegistrationState) -> bool {
    matches!(state, RegistrationState::Retrying { .. })
}

fn is_registered(state: RegistrationState) -> bool {
    state == RegistrationState::Registered
}

#[tokio::test]
async fn twenty_services_survive_a_killed_server_and_none_is_ever_absent() {
    let mut server = Server::start();
    let client = server.client();
    eventually("the server answers", async || client.looks().await.is_some()).await;
    let registrations = twenty(&server).await;
    eventually("all are in the file", async || server.saved() == 20).await;
    for _ in 0..2 {
        server.0.kill();
        eventually("all noticed", async || all_are(&registrations, is_retrying)).await;
        server.0.restart();
        let mut first = None;
        let answered = async || {
            first = client.looks().await;
            first.is_some()
        };
        eventually("it answers", answered).await;
        let (healthy, ..) = first.unwrap();
        assert_eq!(healthy, 20, "with its first answer");
        let back = eventually("all were heard of", async || {
            client.looks().await == Some((20, 0, 0)) && all_are(&registrations, is_registered)
        });
        let back = back.await;
        // A heartbeat, and the longest pause.
        assert!(back < TTL / 3 + TTL / 6 + BUSY, "{back:?}");
    }
}

#[tokio::test]
async fn a_server_that_loses_its_file_has_all_back_within_a_heartbeat() {
    let mut server = Server::start();
    let client = server.client();
    eventually("the server answers", async || client.looks().await.is_some()).await;
    let registrations = twenty(&server).await;
    server.0.kill();
    let _ = fs::remove_file(server.file());
    server.0.restart();
    eventually("it answers", async || client.looks().await.is_some()).await;
    let back = eventually("all are back", async || {
        client.looks().await == Some((20, 0, 0)) && all_are(&registrations, is_registered)
    });
    let back = back.await;
    assert!(back < TTL / 3 + TTL / 6 + BUSY, "{back:?}");
}

#[tokio::test]
async fn a_server_that_was_stopped_for_longer_than_the_ttl_expires_nobody() {
    let server = Server::start();
    let client = server.client();
    eventually("the server answers", async || client.looks().await.is_some()).await;
    let registrations = twenty(&server).await;
    server.0.pause();
    let stopped = Instant::now();
    let over = async || all_are(&registrations, is_retrying) && stopped.elapsed() > TTL * 3 / 2;
    eventually("the TTL is over", over).await;
    server.0.resume();
    eventually("all are registered", async || all_are(&registrations, is_registered)).await;
    // Another TTL, in which whoever was held to be silent would go.
    let resumed = Instant::now();
    eventually("the TTL is over again", async || {
        assert_eq!(client.looks().await.map(|(healthy, ..)| healthy), Some(20));
        resumed.elapsed() > TTL + Duration::from_millis(200)
    })
    .await;
    assert_eq!(client.looks().await, Some((20, 0, 0)));
}
