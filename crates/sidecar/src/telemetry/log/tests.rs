use super::*;
use proptest::prelude::*;
use tracing_subscriber::{Layer, layer::SubscriberExt};

pub(in crate::telemetry) fn log(message: &str) -> Log {
    Log {
        number: 0,
        unix_nanos: 0,
        level: Level::INFO,
        service: "s".into(),
        target: "t",
        message: message.into(),
        trace: None,
        fields: Vec::new(),
        dropped_fields: 0,
    }
}

struct Keep(Arc<LogRing>);

impl<S: tracing::Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        self.0.push(Log::new(&"s".into(), None, event));
    }
}

fn logged(work: impl FnOnce()) -> Log {
    let ring = Arc::new(LogRing::new(10, 1 << 20));
    let subscriber = tracing_subscriber::registry().with(Keep(ring.clone()));
    tracing::subscriber::with_default(subscriber, work);
    let logs = ring.before(u64::MAX, 1);
    (*logs[0]).clone()
}

#[test]
fn fields_keep_their_types() {
    let log = logged(|| {
        let error = std::io::Error::other("no money");
        tracing::warn!(
            a = "x\n", b = true, c = -1, d = u64::MAX, e = 0.5, f = ?Some(1),
            error = &error as &dyn std::error::Error, "hello {}", 1
        );
    });
    assert_eq!(&*log.message, "hello 1");
    let json = serde_json::to_value(&log).unwrap();
    let fields = serde_json::json!({
        "a": "x\n", "b": true, "c": -1, "d": u64::MAX, "e": 0.5, "f": "Some(1)", "error": "no money",
    });
    assert_eq!((&json["fields"], &json["level"]), (&fields, &"WARN".into()));
}

#[test]
fn a_log_without_end_has_one_here() {
    struct Endless;
    impl fmt::Debug for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                f.write_str("äöü")?;
            }
        }
    }
    let log = logged(|| {
        tracing::info!(
            a = ?Endless, b01 = 1, b02 = 1, b03 = 1, b04 = 1, b05 = 1, b06 = 1, b07 = 1, b08 = 1,
            b09 = 1, b10 = 1, b11 = 1, b12 = 1, b13 = 1, b14 = 1, b15 = 1, "{:?}", Endless
        );
    });
    assert!(log.message.len() <= MESSAGE && log.message.len() > MESSAGE - 8);
    assert!(log.message.ends_with('…'));
    let FieldValue::Text(text) = &log.fields[0].1 else { panic!("{log:?}") };
    assert!(text.len() <= TEXT && text.ends_with('…'));
    assert_eq!(&*bounded(10, format_args!("{}", "1234567")), "1234567");
    assert_eq!(&*bounded(10, format_args!("{}", "12345678")), "1234567…");
}

#[test]
fn a_reader_is_told_what_it_missed() {
    let ring = LogRing::new(3, usize::MAX);
    for n in 0..5 {
        ring.push(log(&n.to_string()));
    }
    let mut next = 0;
    let (logs, missed) = ring.read(&mut next, 2);
    assert_eq!((logs[0].number, &*logs[1].message, missed, next), (2, "3", 2, 4));
    let (logs, missed) = ring.read(&mut next, 2);
    assert_eq!((logs.len(), missed, next), (1, 0, 5));
    assert_eq!(ring.read(&mut next, 2).0.len(), 0);
    let before: Vec<_> = ring.before(4, 9).iter().map(|log| log.number).collect();
    assert_eq!(before, [3, 2]);
    let mut far = u64::MAX;
    assert_eq!(ring.read(&mut far, 2).0.len(), 0, "one that asks for what never was");
}

#[test]
fn a_log_larger_than_all_the_room_is_counted_and_gone() {
    let ring = LogRing::new(3, 600);
    ring.push(log("a"));
    ring.push(log(&"x".repeat(1_000)));
    assert_eq!(ring.counts(), (2, 0, 0));
    ring.push(log("b"));
    assert_eq!(&*ring.before(u64::MAX, 1)[0].message, "b");
}

proptest! {
    #[test]
    fn the_ring_holds_the_youngest_that_fit(
        lengths in proptest::collection::vec(0usize..400, 0..200),
        most in 1usize..20,
        most_bytes in 0usize..4_000,
    ) {
        let ring = LogRing::new(most, most_bytes);
        for length in &lengths {
            ring.push(log(&"x".repeat(*length)));
            let (_, count, bytes) = ring.counts();
            prop_assert!(count <= most && bytes <= most_bytes);
        }
        let held = ring.before(u64::MAX, usize::MAX);
        let sizes = held.iter().map(|log| log.size()).sum::<usize>();
        prop_assert_eq!(ring.counts(), (lengths.len() as u64, held.len(), sizes));
        for (index, log) in held.iter().enumerate() {
            prop_assert_eq!(log.number, (lengths.len() - 1 - index) as u64);
        }
        if let Some(next) = lengths.len().checked_sub(held.len() + 1) {
            // Nothing went that had room, unless something larger had pushed it out before.
            let size = log(&"x".repeat(lengths[next])).size();
            let pushed = lengths.iter().any(|length| log(&"x".repeat(*length)).size() > most_bytes);
            prop_assert!(held.len() == most || sizes + size > most_bytes || pushed);
        }
    }
}
