use std::{
    num::NonZeroU32,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;

use super::*;
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
        let name = format!("gusset-broker-{}", uuid::Uuid::now_v7());
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

fn at(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

fn failure(error: &str) -> Failure {
    Failure { attempt: 2, at: at(3), kind: FailureKind::Panic, error: error.into() }
}

fn message() -> Message {
    let message = Message::new("order.created", vec![0, 255, b'\n']).unwrap();
    message
        .with_header("k", "v")
        .with_id(MessageId::new(uuid::Uuid::from_u128(7)))
        .with_delay(Duration::from_secs(1))
        .with_ttl(Duration::from_secs(9))
        .with_priority(Priority::High)
        .written(MessageId::new(uuid::Uuid::from_u128(7)), at(1_700_000_000_000_000_000))
}

fn letter(reason: Reason) -> DeadLetter {
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

fn group() -> GroupRecord {
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

/// One of each kind.
fn events() -> Vec<Event> {
    let (group_id, serial) = (7, 8);
    let history = History { first: failure("a"), later: Some(failure("b")) };
    let standing = Standing {
        attempts: 1,
        redrives: 2,
        history: Some(history.into()),
        waits: Some((at(1), Duration::from_secs(2))),
    };
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
    ]
}

fn encoded(events: &[Event]) -> Vec<u8> {
    let mut bytes = Vec::new();
    events.iter().for_each(|event| codec::write(&mut bytes, event));
    bytes
}

#[test]
fn each_kind_of_event_is_read_as_it_was_written() {
    let bytes = encoded(&events());
    let read = codec::read(&bytes).unwrap();
    let whole = |events: &[Event]| format!("{events:?}");
    assert_eq!(whole(&read), whole(&events()));
    let Event::Published { message: read, .. } = &read[2] else { panic!("{read:?}") };
    assert_eq!(**read, message());
    for cut in 1..bytes.len() {
        let part = codec::read(&bytes[..cut]);
        assert!(part.is_none_or(|part| part.len() < events().len()), "{cut}");
    }
}

/// A log of several frames, and where each ends.
fn log() -> (Vec<u8>, Vec<usize>) {
    let mut bytes = frame::head(99);
    let mut ends = vec![bytes.len()];
    for event in events() {
        bytes.extend(frame::frame(99, |out| codec::write(out, &event)));
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn replayed(bytes: &[u8]) -> Result<(usize, bool), FileError> {
    let mut count = 0;
    let torn = frame::replay(Path::new("log"), bytes, |_| count += 1)?;
    Ok((count, torn))
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

#[test]
fn a_payload_that_is_a_log_is_not_taken_for_frames_when_the_frame_around_it_is_torn() {
    let (inner, _) = log();
    let mut bytes = frame::head(1);
    let message = Message::new("a", inner).unwrap();
    let event = Event::Published { serial: 1, message: message.into(), groups: vec![1] };
    bytes.extend(frame::frame(1, |out| codec::write(out, &event)));
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
        let last = frame::frame(99, |out| codec::write(out, &event));
        bytes.extend(&last[..cut % last.len()]);
        let torn = cut % last.len() > 0;
        prop_assert_eq!(replayed(&bytes).unwrap(), (ends.len() - 1, torn));
    }

    /// Reading a log that was written anew is reading the old one.
    #[test]
    fn a_log_that_is_written_anew_comes_to_the_same(
        choices in proptest::collection::vec((0..10_u8, 1..4_u64, 1..12_u64), 0..200)
    ) {
        let mut state = State::new(Limits::new());
        for (kind, group, serial) in choices {
            state.apply(&event(kind, group, serial));
        }
        let mut again = State::new(Limits::new());
        state.events().iter().for_each(|event| again.apply(event));
        prop_assert_eq!(format!("{:?}", again.events()), format!("{:?}", state.events()));
        prop_assert_eq!(again.bytes(), state.bytes());
        let bytes = encoded(&state.events());
        prop_assert!(bytes.len() as u64 <= 2 * state.bytes() + 4_096, "an estimate, but no lie");
    }
}

fn event(kind: u8, id: u64, serial: u64) -> Event {
    match kind {
        0 => Event::Group(id, group().into()),
        1 => Event::GroupGone(id),
        2..=4 => Event::Published { serial, message: message().into(), groups: vec![id, id + 1] },
        5 => Event::Attempts { group: id, serial, attempts: 2 },
        6 => Event::Gone { group: id, serial },
        7 => {
            let letter = DeadLetter { id: DeadLetterId::new(serial), ..letter(Reason::Exhausted) };
            Event::Died { group: id, serial, letter: letter.into() }
        }
        8 => Event::Redriven { letter: serial, group: id, serial: serial + 20 },
        _ => {
            let (at, after) = (at(1), Duration::from_secs(1));
            Event::Retried { group: id, serial, failure: failure("x"), at, after }
        }
    }
}

#[tokio::test]
async fn a_later_format_a_foreign_file_and_damage_are_refused_and_left_alone() {
    let dir = Dir::new();
    drop(dir.open().unwrap());
    let good = fs::read(dir.log()).unwrap();
    let mut newer = good.clone();
    newer[16] = 2;
    fs::write(dir.log(), &newer).unwrap();
    let error = dir.open().unwrap_err();
    assert!(matches!(error, FileError::Newer { format: 2, understood: 1, .. }), "{error}");
    assert_eq!(fs::read(dir.log()).unwrap(), newer);
    fs::write(dir.log(), "letters to the editor").unwrap();
    let error = dir.open().unwrap_err();
    assert!(matches!(error, FileError::Damaged { offset: 0, .. }), "{error}");
    let (mut damaged, ends) = log();
    damaged[ends[1] + 20] ^= 1;
    fs::write(dir.log(), &damaged).unwrap();
    let error = dir.open().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} is damaged at byte {}", dir.log().display(), ends[1])
    );
    assert_eq!(fs::read(dir.log()).unwrap(), damaged);
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
