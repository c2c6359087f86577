//! Processes that are killed while they publish and consume. What they did is told by what they wrote to their parent, line by line, before they went.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on shall fail, and talks by lines"
)]

use std::{
    collections::HashMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use gusset_broker::{
    Broker, Delivery, FileEngine, FileOptions, Filter, Message, Policy, Reason, Subscription,
};
use gusset_call::BoxError;
use tower::service_fn;

const WORKERS: usize = 8;
const PUBLISHERS: u64 = 16;

fn main() {
    let args: Vec<_> = env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("busy") => run(busy(Path::new(&args[2]), args[3].parse().unwrap())),
        Some("deadly") => run(deadly(Path::new(&args[2]))),
        // Whoever lists tests or asks for one by name.
        Some("--list") => {}
        _ => {
            killed_at_any_time_no_acknowledged_message_is_lost();
            a_message_that_kills_its_process_each_time_is_a_dead_letter();
        }
    }
}

fn run(process: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap()
        .block_on(process);
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// With files so short that old ones are emptied and removed all the time.
fn open(dir: &Path) -> Broker {
    Broker::on(FileEngine::open(dir, FileOptions::new().segment_bytes(1 << 16)).unwrap())
}

/// The number of the oldest file of the log, and how many there are.
fn segments(dir: &Path) -> (u64, usize) {
    let numbers = std::fs::read_dir(dir).unwrap().filter_map(|file| {
        file.unwrap().file_name().to_str()?.strip_prefix("log.")?.parse::<u64>().ok()
    });
    let numbers: Vec<_> = numbers.collect();
    (numbers.iter().copied().min().unwrap_or_default(), numbers.len())
}

/// Says what it handles, and fails what is poisonous.
async fn consume(broker: &Broker) -> Subscription {
    let policy = Policy::new()
        .capacity(100_000)
        .backoff(Duration::from_millis(1), Duration::from_millis(20));
    broker.declare("all", ">", policy).await.unwrap();
    let handler = service_fn(|delivery: Delivery<u64>| async move {
        let n = *delivery.body();
        say(&format!("handled {n}"));
        if n % 50 == 7 { Err::<(), BoxError>("poison".into()) } else { Ok(()) }
    });
    broker.subscribe(">").group("all").concurrency(WORKERS).handle(handler).await.unwrap()
}

/// Publishes and consumes until it is killed; with `first` 0 it only consumes until nothing is left, and tells the dead letters.
async fn busy(dir: &Path, first: u64) {
    let broker = open(dir);
    let _subscription = consume(&broker).await;
    if first == 0 {
        loop {
            let stats = broker.stats();
            let group = &stats.groups[0];
            if group.ready + group.delayed + group.in_flight == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for letter in broker.dead_letters().list(&Filter::all(), None, 100_000).await.unwrap() {
            let (n, reason) = (String::from_utf8_lossy(letter.message.payload()), &letter.reason);
            assert_eq!(*reason, Reason::Exhausted);
            say(&format!("dead {n}"));
        }
        return say("done 0");
    }
    for publisher in 0..PUBLISHERS {
        let broker = broker.clone();
        tokio::spawn(async move {
            for n in 0.. {
                let n = first + n * PUBLISHERS + publisher;
                broker.publish("a", &n).await.unwrap();
                say(&format!("published {n}"));
            }
        });
    }
    std::future::pending().await
}

/// Handles a message that is the end of it.
async fn deadly(dir: &Path) {
    let broker = open(dir);
    if broker.stats().groups.is_empty() {
        broker.declare("all", ">", Policy::new()).await.unwrap();
        broker.publish("a", &1).await.unwrap();
    }
    let handler = service_fn(|_: Delivery<u64>| async {
        say("handled 1");
        std::process::abort();
        #[allow(unreachable_code, reason = "says what the handler would return")]
        Ok::<(), BoxError>(())
    });
    let _subscription = broker.subscribe(">").group("all").handle(handler).await.unwrap();
    while broker.stats().dead_letters == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    say("done 0");
}

fn start(what: &str, dir: &Path, first: u64) -> (Child, Receiver<(String, u64)>) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([what.as_ref(), dir.as_os_str()])
        .arg(first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (lines, out) = (channel(), BufReader::new(child.stdout.take().unwrap()));
    thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            // The last may be torn as well; the line end tells.
            let Some((word, n)) = line.split_once(' ') else { continue };
            let _ = lines.0.send((word.to_owned(), n.parse().unwrap()));
        }
    });
    (child, lines.1)
}

fn directory() -> std::path::PathBuf {
    let id = Message::new("a", "").unwrap().id();
    env::temp_dir().join(format!("gusset-broker-kill-{id}"))
}

fn killed_at_any_time_no_acknowledged_message_is_lost() {
    let (dir, kills) = (directory(), if env::var_os("GUSSET_DEEP").is_some() { 300 } else { 20 });
    let (mut published, mut handled) = (Vec::new(), HashMap::<u64, u32>::new());
    let mut next = PUBLISHERS;
    let mut note = |lines: &mut dyn Iterator<Item = (String, u64)>, dead: &mut Vec<u64>| {
        for (word, n) in lines {
            match &*word {
                "published" => published.push(n),
                "handled" => *handled.entry(n).or_default() += 1,
                "dead" => dead.push(n),
                _ => {}
            }
        }
    };
    let (began, mut dead, mut removed) = (Instant::now(), Vec::new(), 0);
    for kill in 0..kills {
        let (mut child, lines) = start("busy", &dir, next);
        // Beyond all that a run could publish.
        next += 1_000_000;
        let mut seen = vec![lines.recv_timeout(Duration::from_secs(60)).unwrap()];
        let span = Duration::from_millis(message_entropy() % 200);
        let ends = Instant::now() + span;
        while let Ok(line) = lines.recv_timeout(ends.saturating_duration_since(Instant::now())) {
            seen.push(line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        seen.extend(lines.iter());
        removed = segments(&dir).0 - 1;
        note(&mut seen.into_iter(), &mut dead);
        assert!(dead.is_empty(), "{kill}");
    }
    let (mut child, lines) = start("busy", &dir, 0);
    note(&mut lines.iter(), &mut dead);
    assert!(child.wait().unwrap().success());
    let _ = std::fs::remove_dir_all(&dir);

    assert!(removed > 5, "while files are emptied: {removed}");
    let poison = |n: u64| n % 50 == 7;
    for n in &published {
        assert!(handled.contains_key(n), "{n} was acknowledged and never came");
        assert_eq!(dead.contains(n), poison(*n), "{n}");
    }
    let mut once = dead.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), dead.len(), "no dead letter twice");
    let again: usize = handled
        .iter()
        .filter(|(n, times)| !poison(**n) && **times > 1)
        .map(|(_, times)| *times as usize - 1)
        .sum();
    assert!(again <= kills * WORKERS, "{again} of {}", kills * WORKERS);
    assert!(handled.iter().all(|(n, times)| !poison(*n) || *times <= 3), "no attempt is forgotten");
    println!(
        "{kills} kills in {:?}: {} acknowledged, {again} handled twice, {} dead, {removed} files removed: ok",
        began.elapsed(),
        published.len(),
        dead.len()
    );
}

fn message_entropy() -> u64 {
    Message::new("a", "").unwrap().id().get().as_u64_pair().1
}

fn a_message_that_kills_its_process_each_time_is_a_dead_letter() {
    let dir = directory();
    let (mut runs, mut handled) = (0, 0);
    loop {
        let (mut child, lines) = start("deadly", &dir, 0);
        handled += lines.iter().filter(|(word, _)| word == "handled").count();
        runs += 1;
        if child.wait().unwrap().success() {
            break;
        }
        assert!(runs < 10, "it kills for ever");
    }
    let _ = std::fs::remove_dir_all(&dir);
    assert_eq!((runs, handled), (4, 3));
    println!("killed {handled} times by a message, then a dead letter: ok");
}
