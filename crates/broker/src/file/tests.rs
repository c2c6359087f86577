use std::{
    io::ErrorKind,
    num::NonZeroU32,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;

use super::{
    frame::{Frame, Head},
    reading::{End, Reading},
    *,
};
use crate::{
    Broker, Failure, FailureKind, Message, MessageId, Pattern, Policy, Priority, Reason,
    WhenExpired, WhenFull,
    memory::{
        queue::History,
        scribe::{Event, GroupRecord, Standing},
    },
};

/// A directory that is there as long as this.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let name = format!("gusset-broker-{}", MessageId::next().0);
        let dir = std::env::temp_dir().join(name);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn open(&self) -> Result<FileEngine, FileError> {
        FileEngine::open(&self.0, FileOptions::new())
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn at(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

pub(super) fn failure(error: &str) -> Failure {
    Failure { attempt: 2, at: at(3), kind: FailureKind::Panic, error: error.to_owned().into() }
}

pub(super) fn message() -> Message {
    let message = Message::new("order.created", vec![0, 255, b'\n']).unwrap();
    message
        .with_header("k", "v")
        .with_id(MessageId::new(uuid::Uuid::from_u128(7)))
        .with_delay(Duration::from_secs(1))
        .with_ttl(Duration::from_secs(9))
        .with_priority(Priority::High)
        .written(MessageId::new(uuid::Uuid::from_u128(7)), at(1_700_000_000_000_000_000))
}

pub(super) fn letter(reason: Reason) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId::new(4),
        message: message().into(),
        group: "mails".into(),
        reason,
        attempts: 3,
        first_failure: Some(failure("first")),
        last_failure: None,
        died_at: at(5),
        redrives: 1,
    }
}

pub(super) fn group() -> GroupRecord {
    GroupRecord {
        name: "mails".into(),
        pattern: Pattern::new("order.*").unwrap(),
        policy: Policy {
            max_attempts: NonZeroU32::MIN,
            when_expired: WhenExpired::Drop,
            ..Policy::new().when_full(WhenFull::DropOldest)
        },
        header: Some("customer".into()),
        declared: true,
    }
}

fn standing_with_past() -> Standing {
    let history = History { first: failure("a"), later: Some(failure("b").into()) };
    Standing {
        attempts: 1,
        redrives: 2,
        history: Some(history.into()),
        waits: Some((at(1), Duration::from_secs(2))),
    }
}

/// One of each kind.
fn events() -> Vec<Event> {
    let (group_id, serial) = (7, 8);
    let standing = standing_with_past();
    let died = |reason| Event::Died { group: 0, serial: 0, letter: letter(reason).into() };
    vec![
        Event::Last { serial: 8, letter: 4 },
        Event::Group(7, group().into()),
        Event::Published { serial, message: message().into(), groups: vec![7, 9] },
        Event::Attempts { group: group_id, serial, attempts: 2 },
        Event::Retried {
            group: group_id,
            serial,
            failure: failure("x"),
            at: at(1),
            after: Duration::from_secs(60),
        },
        Event::Stands { group: group_id, serial, standing },
        Event::Gone { group: group_id, serial },
        died(Reason::Exhausted),
        died(Reason::Rejected("why".into())),
        died(Reason::Undecodable("why".into())),
        died(Reason::Expired),
        died(Reason::Unheard),
        Event::Redriven { letter: 4, group: group_id, serial: 9 },
        Event::LetterGone(4),
        Event::Known(message().id(), at(2)),
        Event::GroupGone(7),
        Event::Kept {
            serial: 3,
            message: message().into(),
            groups: vec![(1, Standing::default()), (2, standing_with_past())],
        },
        Event::Renumbered(vec![(1, 2), (2, 3)]),
        Event::Begins(12),
    ]
}

fn encoded(events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::new();
    events.iter().for_each(|event| encode::write(&mut bytes, event));
    bytes
}

#[test]
fn each_kind_of_event_is_read_as_it_was_written() {
    let bytes = encoded(&events());
    let read = decode::read(&bytes).unwrap();
    let whole = |events: &[Event]| format!("{events:?}");
    assert_eq!(whole(&read), whole(&events()));
    let Event::Published { message: read, .. } = &read[2] else { panic!("{read:?}") };
    assert_eq!(**read, message());
    for cut in 1..bytes.len() {
        let part = decode::read(&bytes[..cut]);
        assert!(part.is_none_or(|part| part.len() < events().len()), "{cut}");
    }
}

/// Begun when so much was on the disk.
fn framed(salt: u64, synced: usize, event: &Event) -> Vec<u8> {
    let mut frame = Frame::new();
    frame.push(event);
    frame.seal(salt, synced as u64).to_vec()
}

/// A segment of several frames, and where each ends.
fn log() -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Head { number: 1, before: 0, salt: 99 }.bytes();
    let mut ends = vec![bytes.len()];
    for event in events() {
        let frame = framed(99, bytes.len(), &event);
        bytes.extend(frame);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn replayed_up_to(bytes: &[u8], end: End) -> Result<(usize, bool), FileError> {
    let dir = Dir::new();
    fs::write(dir.log(), bytes).unwrap();
    let mut count = 0;
    let (length, torn) = Reading::open(dir.log())?.replay(end, |_| count += 1)?;
    assert!(length <= bytes.len() as u64 && (torn || length == bytes.len() as u64));
    Ok((count, torn))
}

fn replayed(bytes: &[u8]) -> Result<(usize, bool), FileError> {
    replayed_up_to(bytes, End::Open)
}

#[test]
fn a_segment_before_the_last_is_whole_or_damaged() {
    let (bytes, ends) = log();
    let end = End::At(bytes.len() as u64);
    assert_eq!(replayed_up_to(&bytes, end).unwrap(), (ends.len() - 1, false));
    for length in ends[0]..bytes.len() {
        let begins = ends.iter().rev().find(|end| **end <= length).unwrap();
        match replayed_up_to(&bytes[..length], end) {
            Err(FileError::Damaged { offset, .. }) => assert_eq!(offset, *begins as u64),
            taken => panic!("{length}: {taken:?}"),
        }
    }
}

#[test]
fn what_is_behind_the_end_of_a_segment_does_not_count() {
    let (mut bytes, ends) = log();
    let end = bytes.len() as u64;
    let behind = framed(99, bytes.len(), &Event::GroupGone(7));
    bytes.extend(behind);
    let dir = Dir::new();
    fs::write(dir.log(), &bytes).unwrap();
    let mut count = 0;
    let read = Reading::open(dir.log()).unwrap().replay(End::At(end), |_| count += 1).unwrap();
    assert_eq!((read, count), ((end, false), ends.len() - 1));
}

#[test]
fn a_log_torn_at_any_byte_holds_each_frame_as_a_whole() {
    let (bytes, ends) = log();
    for length in ends[0]..=bytes.len() {
        // What the system had not written may be missing, or be zeros.
        for zeros in [0, 20] {
            let mut left = bytes[..length].to_vec();
            left.extend(std::iter::repeat_n(0, zeros));
            let whole = ends.iter().filter(|end| **end <= length).count() - 1;
            let torn = zeros > 0 || !ends.contains(&length);
            // Zeros may be what was there.
            let (count, found) = replayed(&left).unwrap();
            assert!((whole..=whole + 1).contains(&count), "{length} bytes");
            assert!(count > whole || found == torn, "{length} bytes");
        }
    }
}

/// Three frames, of which the second is not as it was written; it was begun at the first of these places, the third when so much was on the disk.
fn with_a_hole(synced: impl Fn(usize, usize) -> usize) -> Vec<u8> {
    let mut bytes = Head { number: 1, before: 0, salt: 99 }.bytes();
    let begins = bytes.len();
    bytes.extend(framed(99, begins, &Event::GroupGone(7)));
    let hole = bytes.len();
    bytes.extend(framed(99, begins, &Event::GroupGone(8)));
    let last = framed(99, synced(begins, hole), &Event::GroupGone(9));
    bytes[hole + 25] ^= 1;
    bytes.extend(last);
    bytes
}

#[test]
fn with_a_frame_that_was_not_on_the_disk_go_those_behind_it_that_were_not_either() {
    let dir = Dir::new();
    for synced in [|begins, _| begins, |_, hole| hole] {
        fs::write(dir.log(), with_a_hole(synced)).unwrap();
        let mut count = 0;
        let (length, torn) =
            Reading::open(dir.log()).unwrap().replay(End::Open, |_| count += 1).unwrap();
        assert_eq!((count, torn), (1, true), "{length}");
    }
}

#[test]
fn a_frame_that_was_on_the_disk_when_one_behind_it_was_begun_is_damaged() {
    let replayed = replayed(&with_a_hole(|_, hole| hole + 1));
    assert!(matches!(replayed, Err(FileError::Damaged { .. })), "{replayed:?}");
}

#[test]
fn a_payload_that_is_a_log_is_not_taken_for_frames_when_the_frame_around_it_is_torn() {
    let (inner, _) = log();
    let mut bytes = Head { number: 1, before: 0, salt: 1 }.bytes();
    let message = Message::new("a", inner).unwrap();
    let event = Event::Published { serial: 1, message: message.into(), groups: vec![1] };
    let frame = framed(1, bytes.len(), &event);
    bytes.extend(frame);
    bytes.pop();
    assert_eq!(replayed(&bytes).unwrap(), (0, true));
}

proptest! {
    #[test]
    fn a_bit_that_changed_before_the_last_frame_is_damage_with_its_place(place: usize, bit in 0..8_u8) {
        let (mut bytes, ends) = log();
        let place = place % ends[ends.len() - 2];
        bytes[place] ^= 1 << bit;
        let begins = ends.iter().rev().find(|end| **end <= place).copied().unwrap_or(0);
        match replayed(&bytes) {
            Err(FileError::Damaged { offset, .. }) => prop_assert_eq!(offset, begins as u64),
            Err(FileError::Newer { .. }) => prop_assert!((16..20).contains(&place)),
            taken => prop_assert!(false, "{:?}", taken),
        }
    }

    #[test]
    fn the_last_frame_torn_at_any_byte_takes_nothing_else_with_it(payload: Vec<u8>, cut: usize) {
        let (mut bytes, ends) = log();
        let message = Message::new("a", payload).unwrap();
        let event = Event::Published { serial: 1, message: message.into(), groups: vec![1] };
        let last = framed(99, bytes.len(), &event);
        bytes.extend(&last[..cut % last.len()]);
        let torn = cut % last.len() > 0;
        prop_assert_eq!(replayed(&bytes).unwrap(), (ends.len() - 1, torn));
    }
}

#[tokio::test]
async fn a_later_format_a_foreign_file_and_damage_are_refused_and_left_alone() {
    let dir = Dir::new();
    drop(dir.open().unwrap());
    let good = fs::read(dir.log()).unwrap();
    let mut newer = good.clone();
    newer[16] = 4;
    fs::write(dir.log(), &newer).unwrap();
    let error = dir.open().unwrap_err();
    assert!(matches!(error, FileError::Newer { format: 4, understood: 3, .. }), "{error}");
    assert_eq!(fs::read(dir.log()).unwrap(), newer);
    fs::write(dir.log(), "letters to the editor").unwrap();
    let error = dir.open().unwrap_err();
    assert!(matches!(error, FileError::Damaged { offset: 0, .. }), "{error}");
    fs::write(dir.log(), &good).unwrap();
    let (mut damaged, ends) = log();
    damaged[ends[1] + 20] ^= 1;
    let segment = dir.0.join("log.0000000001");
    fs::write(&segment, &damaged).unwrap();
    let error = dir.open().unwrap_err();
    let expected = format!("{} is damaged at byte {}", segment.display(), ends[1]);
    assert_eq!(error.to_string(), expected);
    assert_eq!(fs::read(&segment).unwrap(), damaged);
}

#[tokio::test]
async fn a_file_that_was_taken_away_is_missed() {
    let dir = Dir::new();
    for n in 0..4 {
        let broker = Broker::on(dir.open().unwrap());
        broker.declare("mails", ">", Policy::new()).await.unwrap();
        broker.publish("a", &n).await.unwrap();
    }
    let segment = |n: u64| dir.0.join(format!("log.{n:010}"));
    let aside = dir.0.join("aside");
    for n in 1..4 {
        fs::rename(segment(n), &aside).unwrap();
        let error = dir.open().unwrap_err();
        assert!(matches!(&error, FileError::Missing { path } if *path == segment(n)), "{error}");
        fs::rename(&aside, segment(n)).unwrap();
    }
    // One that came back, from before a gap, is none of them.
    fs::copy(segment(1), dir.0.join("log.0000000000")).unwrap();
    fs::rename(dir.0.join("log.0000000000"), &aside).unwrap();
    let broker = Broker::on(dir.open().unwrap());
    assert_eq!(broker.stats().groups[0].ready, 4);
}

#[tokio::test]
async fn a_log_of_format_1_is_read() {
    let dir = Dir::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/file/format-1.log");
    fs::copy(path, dir.log()).unwrap();
    let broker = Broker::on(dir.open().unwrap());
    let groups = broker.stats().groups;
    let held = groups[0].ready + groups[0].delayed;
    assert_eq!((&*groups[0].group, held, groups[0].pattern.as_str()), ("mails", 2, ">"));
    let letters = broker.dead_letters().list(&Filter::all(), None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(&letters[0].message.payload()[..], b"3");
    assert_eq!(letters[0].reason, Reason::Rejected("three".into()));
    drop((letters, broker));
    let broker = Broker::on(dir.open().unwrap());
    let stats = broker.stats();
    assert_eq!((stats.groups[0].ready + stats.groups[0].delayed, stats.dead_letters), (2, 1));
}

#[tokio::test]
async fn a_crash_while_format_1_is_moved_loses_nothing() {
    let (dir, old) =
        (Dir::new(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/file/format-1.log"));
    fs::copy(&old, dir.log()).unwrap();
    drop(dir.open().unwrap());
    // As before the last step.
    fs::copy(&old, dir.log()).unwrap();
    let broker = Broker::on(dir.open().unwrap());
    let stats = broker.stats();
    assert_eq!((stats.groups[0].ready + stats.groups[0].delayed, stats.dead_letters), (2, 1));
}

#[tokio::test]
async fn a_disk_that_is_full_refuses_publishes_and_goes_on_when_there_is_room() {
    let dir = Dir::new();
    let engine = dir.open().unwrap();
    let log = engine.log.clone();
    let broker = Broker::on(engine);
    broker.declare("mails", ">", Policy::new()).await.unwrap();
    // Nothing can be written anew as long as this is in the way.
    let in_the_way = dir.0.join("log.new");
    fs::create_dir(&in_the_way).unwrap();
    log.fill();
    let kind = |error: Error| match error {
        Error::Engine(error) => match *error.downcast::<FileError>().unwrap() {
            FileError::Io { source, .. } => source.kind(),
            other => panic!("{other}"),
        },
        other => panic!("{other}"),
    };
    let error = broker.publish("a", &1).await.unwrap_err();
    assert_eq!(kind(error), ErrorKind::StorageFull);
    let mut tries = 0;
    while broker.publish("a", &2).await.is_err() {
        tries += 1;
        assert_eq!(broker.stats().groups[0].published, 1, "refused at the door");
        if tries == 3 {
            fs::remove_dir(&in_the_way).unwrap();
        }
        assert!(tries < 1_000);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(broker);
    let broker = Broker::on(dir.open().unwrap());
    assert_eq!(broker.stats().groups[0].ready, 2, "the first may have happened, and has");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_waits_until_its_attempt_is_written_and_for_no_sync() {
    let dir = Dir::new();
    let engine = dir.open().unwrap();
    let log = engine.log.clone();
    let broker = Broker::on(engine);
    broker.declare("mails", ">", Policy::new()).await.unwrap();
    let handler = tower::service_fn(|_: crate::Delivery<u32>| async { Ok::<_, String>(()) });
    let _subscription = broker.subscribe(">").group("mails").handle(handler).await.unwrap();
    let gate = log.clone();
    let (held, free) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let holder = thread::spawn(move || {
        let _gate = gate.gate.lock().unwrap();
        held.0.send(()).unwrap();
        free.1.recv().unwrap();
    });
    held.1.recv().unwrap();
    let publisher = broker.clone();
    let publishing = tokio::spawn(async move {
        let publish = |n: u32| {
            let broker = publisher.clone();
            async move { broker.publish("a", &n).await }
        };
        futures_util::future::join_all((0..9).map(publish)).await
    });
    while broker.stats().groups[0].acked < 9 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!publishing.is_finished(), "acknowledged before it is on the disk");
    free.0.send(()).unwrap();
    assert!(publishing.await.unwrap().iter().all(Result::is_ok));
    holder.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_sync_leaves_in_doubt_is_written_again() {
    let dir = Dir::new();
    let engine = dir.open().unwrap();
    let log = engine.log.clone();
    let broker = Broker::on(engine);
    broker.declare("mails", ">", Policy::new()).await.unwrap();
    let mut taken = Vec::new();
    for round in 0..10_u32 {
        *log.gate.lock().unwrap() = true;
        let publish = |n| {
            let (broker, n) = (broker.clone(), round * 10 + n);
            async move { broker.publish("a", &n).await.map(|_| n) }
        };
        let results = futures_util::future::join_all((0..10).map(publish)).await;
        taken.extend(results.into_iter().filter_map(Result::ok));
    }
    while broker.publish("a", &1_000).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // As after a crash: what the first has open is not touched.
    let copy = Dir::new();
    for file in fs::read_dir(&dir.0).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.0.join(file.file_name())).unwrap();
    }
    let again = Broker::on(copy.open().unwrap());
    let mut pull = again.subscribe(">").group("mails").pull::<u32>().await.unwrap();
    let mut seen = std::collections::HashSet::new();
    while !taken.iter().all(|n| seen.contains(n)) {
        let pulled = tokio::time::timeout(Duration::from_secs(20), pull.next()).await;
        let pulled = pulled.unwrap().unwrap();
        seen.insert(*pulled.body());
        pulled.ack().await.unwrap();
    }
}
