//! A gateway under load and faults for a long time: nobody gets another's answer, nothing is executed twice, and memory stays flat.
//!
//! For 10 s among the other tests, five minutes in a stage of `./test` of its own, two hours in that of `./test --deep`, and for as long as one likes by hand.
//! A pause after each request of the 16 clients leaves the machine for something else:
//!
//! ```text
//! GUSSET_SOAK_SECONDS=7200 GUSSET_SOAK_PAUSE_MS=50 cargo test --release -p gusset-gateway --test soak -- --nocapture
//! ```
#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "raw/strict.rs"]
#[allow(dead_code, reason = "the suite of raw sockets asks for more")]
mod strict;

use std::{
    env, fs,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use gusset_breaker::Policy;
use gusset_engines::Chance;
use gusset_gateway::{Gateway, Live, Route, Server, Upstream};
use gusset_registry::MemoryRegistry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const CLIENTS: usize = 16;
const LARGE: usize = 1 << 20;

/// What all have seen.
#[derive(Default)]
struct Seen {
    /// The number of the last order of each client that was executed.
    last: [AtomicU64; CLIENTS],
    twice: AtomicU64,
    /// Requests that no instance should have seen.
    wrong: AtomicU64,
    answered: AtomicU64,
    /// Answers of the gateway that it could not have any, and those that broke off.
    failed: AtomicU64,
    over: AtomicBool,
}

/// Serves until it is dropped, connections and all.
async fn instance(listener: TcpListener, seen: Arc<Seen>, seed: u64) {
    let mut connections = JoinSet::new();
    let mut number = seed;
    while let Ok((stream, _)) = listener.accept().await {
        number += 1;
        connections.spawn(talk(stream, seen.clone(), Chance(number)));
        while connections.try_join_next().is_some() {}
    }
}

async fn talk(mut stream: TcpStream, seen: Arc<Seen>, mut chance: Chance) {
    let mut read = Vec::new();
    loop {
        let request = match strict::request(&read) {
            Ok(Some((request, length))) => {
                read.drain(..length);
                request
            }
            Ok(None) => match stream.read_buf(&mut read).await {
                Ok(1..) => continue,
                _ => return,
            },
            Err(_) => {
                seen.wrong.fetch_add(1, SeqCst);
                return;
            }
        };
        let target = request.target().to_owned();
        let mut parts = target.split('/').skip(1);
        if let (Some("order"), Some(client), Some(number)) =
            (parts.next(), parts.next(), parts.next())
        {
            let (client, number): (usize, u64) = (client.parse().unwrap(), number.parse().unwrap());
            if seen.last[client].fetch_max(number, SeqCst) >= number {
                seen.twice.fetch_add(1, SeqCst);
            }
        }
        match chance.below(300) {
            // It breaks, before or in the middle of its answer.
            0 => return stream.set_zero_linger().unwrap(),
            1 => {
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await;
                return;
            }
            2..=9 => sleep(Duration::from_millis(chance.below(20) as u64)).await,
            _ => {}
        }
        let written = match &*target {
            "/large" => {
                let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for _ in 0..16 {
                    answer.extend_from_slice(format!("{:x}\r\n", LARGE / 16).as_bytes());
                    answer.resize(answer.len() + LARGE / 16, b'x');
                    answer.extend_from_slice(b"\r\n");
                }
                answer.extend_from_slice(b"0\r\n\r\n");
                stream.write_all(&answer).await
            }
            _ => {
                let length = target.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}");
                stream.write_all(answer.as_bytes()).await
            }
        };
        // Now and then an idle connection is closed without a word.
        if written.is_err() || chance.below(100) == 0 {
            return;
        }
    }
}

/// Three instances, of which one after the other dies and comes back.
async fn instances(seen: Arc<Seen>, addresses: oneshot::Sender<Vec<SocketAddr>>) {
    let mut running = Vec::new();
    let mut places = Vec::new();
    for number in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        places.push(listener.local_addr().unwrap());
        running.push(tokio::spawn(instance(listener, seen.clone(), number << 32)));
    }
    addresses.send(places.clone()).unwrap();
    let mut round = 0;
    while !seen.over.load(SeqCst) {
        sleep(Duration::from_millis(700)).await;
        let which = usize::try_from(round % 3).unwrap();
        running[which].abort();
        let _ = (&mut running[which]).await;
        sleep(Duration::from_millis(50)).await;
        round += 1;
        let listener = TcpListener::bind(places[which]).await.unwrap();
        running[which] = tokio::spawn(instance(listener, seen.clone(), (round << 40) + round));
    }
    running.iter().for_each(tokio::task::JoinHandle::abort);
}

fn gateway(addresses: &[SocketAddr]) -> Gateway {
    let route = Route::new("/{*rest}").to(Upstream::fixed(addresses.iter().copied()));
    // An instance that comes back is to be used at once: it is about requests here, and not about circuits.
    let patient = Policy::default().slow_after(Duration::MAX).open_for(Duration::from_millis(100));
    Gateway::builder(MemoryRegistry::default()).breaker(patient).route(route).build().unwrap()
}

/// One gateway takes the place of the other, and each of them is left in the end.
async fn exchange(live: Live, addresses: Vec<SocketAddr>, seen: Arc<Seen>) {
    let mut before: Vec<(Gateway, Instant)> = Vec::new();
    while !seen.over.load(SeqCst) || !before.is_empty() {
        sleep(Duration::from_millis(300)).await;
        before.retain(|(gateway, _)| !gateway.is_left());
        let kept = before.iter().map(|(_, since)| since.elapsed()).max().unwrap_or_default();
        assert!(kept < Duration::from_secs(120), "a gateway is never left");
        if !seen.over.load(SeqCst) {
            before.push((live.swap(gateway(&addresses)), Instant::now()));
        }
    }
}

/// A client of its own connection, one request after the other.
struct Client {
    front: SocketAddr,
    number: usize,
    orders: u64,
    stream: Option<TcpStream>,
    chance: Chance,
    seen: Arc<Seen>,
}

impl Client {
    async fn run(mut self) {
        let pause = number_in("GUSSET_SOAK_PAUSE_MS").map(Duration::from_millis);
        while !self.seen.over.load(SeqCst) {
            let ask = timeout(Duration::from_secs(120), self.ask());
            assert!(ask.await.is_ok(), "a request never ends");
            if let Some(pause) = pause {
                sleep(pause).await;
            }
        }
    }

    async fn ask(&mut self) {
        let number = self.chance.below(usize::MAX);
        match self.chance.below(100) {
            0..70 => {
                let target = format!("/get/{number}");
                let answer = self
                    .answered("GET", &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), 0)
                    .await;
                self.judge(answer, &target);
            }
            70..90 => self.order().await,
            90..94 => {
                // It leaves in the middle, of its request or of the answer.
                let (path, body) = if number % 2 == 0 {
                    ("large", "")
                } else {
                    ("left", "Content-Length: 1000\r\n")
                };
                let mut stream = TcpStream::connect(self.front).await.unwrap();
                let request = format!("POST /{path} HTTP/1.1\r\nHost: a\r\n{body}\r\nsome of it");
                let _ = stream.write_all(request.as_bytes()).await;
                let mut some = [0; 1000];
                let _ = timeout(Duration::from_millis(5), stream.read(&mut some)).await;
            }
            94..98 => {
                let wrong = [
                    "Content-Length: 1\r\nTransfer-Encoding: chunked",
                    "Content-Length: 1\r\nContent-Length: 2",
                    "Transfer-Encoding: gzip, chunked",
                    "X : 1",
                    "X: a\rb",
                ];
                let fields = wrong[number % 5];
                let mut stream = TcpStream::connect(self.front).await.unwrap();
                let request =
                    format!("POST /never HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut said = Vec::new();
                let _ = stream.read_to_end(&mut said).await;
                let refused =
                    said.starts_with(b"HTTP/1.1 400 ") || said.starts_with(b"HTTP/1.1 501 ");
                assert!(refused, "{fields:?}: {}", String::from_utf8_lossy(&said));
            }
            _ => {
                let pause = self.chance.below(3) as u64;
                let answer =
                    self.answered("GET", "GET /large HTTP/1.1\r\nHost: a\r\n\r\n", pause).await;
                match answer {
                    Some(answer) if answer.status() == 200 => {
                        assert!(
                            answer.body.len() == LARGE || answer.body == b"part",
                            "{} bytes",
                            answer.body.len()
                        );
                        self.seen.answered.fetch_add(1, SeqCst);
                    }
                    _ => drop(self.seen.failed.fetch_add(1, SeqCst)),
                }
            }
        }
    }

    /// What must happen once at most, and once if it is answered.
    async fn order(&mut self) {
        self.orders += 1;
        let (client, order) = (self.number, self.orders);
        let target = format!("/order/{client}/{order}");
        let (fields, body) = match order % 2 {
            0 => ("Content-Length: 5", "order"),
            _ => ("Transfer-Encoding: chunked", "2\r\nor\r\n3\r\nder\r\n0\r\n\r\n"),
        };
        let request = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
        let answer = self.answered("POST", &request, 0).await;
        if answer.as_ref().is_some_and(|answer| answer.status() == 200) {
            assert_eq!(self.seen.last[client].load(SeqCst), order, "answered and not executed");
        }
        self.judge(answer, &target);
    }

    fn judge(&self, answer: Option<strict::Message>, target: &str) {
        match answer {
            Some(answer) if answer.status() == 200 => {
                assert_eq!(String::from_utf8_lossy(&answer.body), target, "the answer of another");
                self.seen.answered.fetch_add(1, SeqCst);
            }
            Some(answer) => {
                assert!(matches!(answer.status(), 502 | 503), "{answer:?}");
                self.seen.failed.fetch_add(1, SeqCst);
            }
            None => drop(self.seen.failed.fetch_add(1, SeqCst)),
        }
    }

    /// The answer to `request`, nothing if it breaks off. Read slowly if there is a pause, in milliseconds.
    async fn answered(
        &mut self,
        method: &str,
        request: &str,
        pause: u64,
    ) -> Option<strict::Message> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(self.front).await.unwrap(),
        };
        stream.write_all(request.as_bytes()).await.ok()?;
        let (mut read, mut over) = (Vec::new(), false);
        loop {
            if let Some((answer, length)) = strict::answer(&read, method, over).unwrap() {
                assert_eq!(length, read.len(), "more than the answer");
                let closes = answer.all("connection").iter().any(|value| value.contains("close"));
                self.stream = Some(stream).filter(|_| !closes);
                return Some(answer);
            }
            if over {
                return None;
            }
            sleep(Duration::from_millis(pause)).await;
            over = !matches!(stream.read_buf(&mut read).await, Ok(1..));
        }
    }
}

/// MiB of this process, clients and instances with it.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

fn number_in(name: &str) -> Option<u64> {
    env::var(name).ok().map(|told| told.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_faults_nothing_is_lost_doubled_or_kept() {
    let seen = Arc::<Seen>::default();
    let (told, addresses) = oneshot::channel();
    let instances = tokio::spawn(instances(seen.clone(), told));
    let addresses = addresses.await.unwrap();
    let live = Live::new(gateway(&addresses));
    let exchanging = tokio::spawn(exchange(live.clone(), addresses, seen.clone()));
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let gateway = live.clone();
    let served = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        let cores = NonZeroUsize::new(2).unwrap();
        Server::new().run_on_cores(cores, front, gateway, stopped).await
    });
    let begun = async { while TcpStream::connect(front).await.is_err() {} };
    timeout(Duration::from_secs(60), begun).await.unwrap();

    let clients = (0..CLIENTS).map(|number| {
        let (seen, chance) = (seen.clone(), Chance(number as u64));
        tokio::spawn(Client { front, number, orders: 0, stream: None, chance, seen }.run())
    });
    let clients: Vec<_> = clients.collect();
    let (begun, seconds) = (Instant::now(), number_in("GUSSET_SOAK_SECONDS").unwrap_or(10));
    let length = Duration::from_secs(seconds);
    let mut early = None;
    while begun.elapsed() < length && clients.iter().all(|client| !client.is_finished()) {
        sleep((length / 20).min(Duration::from_secs(10))).await;
        if begun.elapsed() > length / 3 {
            early.get_or_insert_with(memory);
        }
        let (answered, failed) = (seen.answered.load(SeqCst), seen.failed.load(SeqCst));
        eprintln!(
            "{:6.0} s: {answered} answered, {failed} failed, {} MiB",
            begun.elapsed().as_secs_f64(),
            memory()
        );
    }
    let late = memory();
    seen.over.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    instances.await.unwrap();
    exchanging.await.unwrap();
    drop(live);
    stop.send(()).unwrap();
    timeout(Duration::from_secs(120), served).await.unwrap().unwrap().unwrap();

    let (answered, failed) = (seen.answered.load(SeqCst), seen.failed.load(SeqCst));
    assert_eq!(
        (seen.twice.load(SeqCst), seen.wrong.load(SeqCst)),
        (0, 0),
        "executed twice, malformed"
    );
    // One in 150 requests is answered by halves or not at all, and of those a few more that an instance was to answer as it died.
    assert!(answered > 100 && failed * 50 < answered, "{answered} answered, {failed} failed");
    let early = early.unwrap_or(late);
    assert!(late < early + 24, "{early} MiB after a third of the time, {late} MiB at the end");
}
