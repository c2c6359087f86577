//! What is started is ended, whatever becomes of who started it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use gusset_engines::{Faults, Folder, Port, Process, Proxy, again};

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "not {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]);
    shell
}

fn runs(id: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['X', 'Z']))
}

/// A shell that says its id and that of a child, and waits for that.
const FAMILY: &str = "sleep 600 & echo parent $$; echo child $!; wait";

fn family(process: &mut Process) -> [String; 2] {
    ["parent ", "child "].map(|word| process.says(word)[word.len()..].to_owned())
}

#[test]
fn a_process_that_is_dropped_leaves_no_child_and_no_folder() {
    let mut process = Process::started("family", shell(FAMILY));
    let (all, folder) = (family(&mut process), process.folder().to_owned());
    assert!(all.iter().all(|id| runs(id)) && folder.exists());
    drop(process);
    assert!(!all.iter().any(|id| runs(id)) && !folder.exists());
}

const HOLDER: &str = "GUSSET_ENGINES_HOLDS";

/// Not a test where it is not told to hold a process.
#[test]
fn as_who_holds_a_process() {
    if std::env::var_os(HOLDER).is_none() {
        return;
    }
    let mut process = Process::started("held", shell(FAMILY));
    let [parent, child] = family(&mut process);
    println!("\nholds {parent} {child} {}", process.folder().display());
    loop {
        thread::park();
    }
}

#[test]
fn a_process_ends_with_its_children_and_its_folder_when_who_holds_it_is_killed() {
    let mut command = again("as_who_holds_a_process");
    let mut holder = command.env(HOLDER, "1").stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut output = holder.stdout.take().unwrap();
    while !said.lines().any(|line| line.starts_with("holds ")) || !said.ends_with('\n') {
        let mut bytes = [0; 256];
        let read = output.read(&mut bytes).unwrap();
        said += std::str::from_utf8(&bytes[..read]).unwrap();
    }
    let line = said.lines().find_map(|line| line.strip_prefix("holds ")).unwrap();
    let [parent, child, folder] = *line.split(' ').collect::<Vec<_>>() else { unreachable!() };
    assert!(runs(parent) && runs(child));
    holder.kill().unwrap();
    holder.wait().unwrap();
    until("ended", || !runs(parent) && !runs(child) && !PathBuf::from(folder).exists());
}

#[test]
fn a_process_comes_back_with_what_it_had_or_without_and_says_so_of_its_last_start_only() {
    let mut process = Process::new("counts", |folder| {
        let mut command =
            shell("mkdir -p data; echo x >>data/x; echo has $(wc -l <data/x); sleep 600");
        command.current_dir(folder);
        command
    });
    process.start();
    assert_eq!(process.says("has "), "has 1");
    process.restart();
    assert_eq!(process.says("has "), "has 2");
    process.restart_empty();
    assert_eq!(process.says("has "), "has 1");
    assert_eq!(process.log(), "has 1\n");
}

#[test]
fn a_process_that_is_asked_to_ends_in_its_own_way() {
    let mut process = Process::started(
        "polite",
        shell("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.01; done"),
    );
    process.says("up");
    assert!(process.has_ended().is_none());
    assert_eq!(process.stop().code(), Some(7));
    assert_eq!(process.says("bye"), "bye");
}

#[test]
#[should_panic(expected = "it does not work")]
fn a_server_that_ends_instead_of_being_ready_is_shown_with_its_last_words() {
    let process = Process::new("broken", |_| shell("echo it does not work; exit 1"));
    process.ready_when(|| false).start();
}

#[test]
fn a_port_is_nobody_elses_while_it_is_held_also_where_nobody_listens() {
    let held: Vec<_> = (0..200).map(|_| Port::free()).collect();
    let mut numbers: Vec<_> = held.iter().map(Port::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 200);
    for _ in 0..200 {
        let other = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(!numbers.contains(&other), "{other} was handed out by the system");
    }
    for port in &held {
        drop(TcpListener::bind(port.address()).unwrap());
    }
}

#[test]
fn folders_of_one_name_are_different_and_go_with_their_values() {
    let (one, other) = (Folder::new("same"), Folder::new("same"));
    assert_ne!(&*one, &*other);
    fs::write(one.join("file"), "x").unwrap();
    let path = one.to_path_buf();
    drop(one);
    assert!(!path.exists() && other.exists());
}

/// Answers each byte with the next one, on a thread for each connection.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut byte = [0];
                while matches!(stream.read(&mut byte), Ok(1)) {
                    if stream.write_all(&[byte[0] + 1]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// What comes back for a byte: another one, or none where the connection has ended.
fn ask(stream: &mut TcpStream, byte: u8) -> u8 {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // Of a connection that has ended, only reading says so for certain.
    let _ = stream.write_all(&[byte]);
    let mut answer = [0];
    match stream.read(&mut answer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("neither"),
        _ => answer[0],
    }
}

/// Neither an answer nor an end comes for a while.
fn is_dead(stream: &mut TcpStream, byte: u8) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.write_all(&[byte]).unwrap();
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn a_proxy_carries_and_cuts_and_carries_again() {
    let proxy = Proxy::before(server());
    let connect = || TcpStream::connect(proxy.address()).unwrap();
    let mut stream = connect();
    assert_eq!(ask(&mut stream, 7), 8);
    proxy.cut();
    assert_eq!(ask(&mut stream, 7), 0);
    assert_eq!(ask(&mut connect(), 7), 0);
    proxy.mend();
    assert_eq!(ask(&mut connect(), 7), 8);
    assert_eq!(ask(&mut stream, 7), 0, "what has ended stays so");
}

#[test]
fn a_connection_that_has_lost_something_stays_dead_and_others_are_not() {
    for faults in
        [Faults { deaf: true, ..Faults::default() }, Faults { mute: true, ..Faults::default() }]
    {
        let proxy = Proxy::before(server());
        let connect = || TcpStream::connect(proxy.address()).unwrap();
        let (mut lost, mut idle) = (connect(), connect());
        assert_eq!((ask(&mut lost, 7), ask(&mut idle, 7)), (8, 8));
        proxy.set(faults);
        assert_eq!((is_dead(&mut lost, 7), is_dead(&mut connect(), 7)), (true, true), "{faults:?}");
        proxy.mend();
        assert!(is_dead(&mut lost, 7), "{faults:?}");
        assert_eq!((ask(&mut idle, 7), ask(&mut connect(), 7)), (8, 8));
        proxy.set_present(faults);
        assert_eq!((is_dead(&mut idle, 7), ask(&mut connect(), 7)), (true, 8), "{faults:?}");
    }
}

#[test]
fn a_proxy_that_waits_for_a_word_is_deaf_from_then_on_and_one_that_is_slow_says_it_later() {
    let proxy = Proxy::before(server());
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    proxy.set(Faults { deaf_from: Some(b"\x09"), ..Faults::default() });
    assert_eq!((ask(&mut stream, 7), proxy.is_deaf()), (8, false));
    assert_eq!((is_dead(&mut stream, 9), proxy.is_deaf()), (true, true));
    proxy.set(Faults { delay: Duration::from_secs(1), ..Faults::default() });
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    assert!(is_dead(&mut stream, 7));
    stream.set_read_timeout(None).unwrap();
    let mut late = [0];
    stream.read_exact(&mut late).unwrap();
    assert_eq!(late, [8]);
}
