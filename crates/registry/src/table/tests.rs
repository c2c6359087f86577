use super::*;
use proptest::prelude::*;

/// TTL 30 s, sweeps every 10 s, forgotten after 90 s.
fn table() -> Table {
    Table::new(&Policy::default(), Instant::now(), Duration::ZERO)
}

fn instance(id: &str) -> Instance {
    Instance::new("s", "h", 1).with_id(id)
}

fn key(id: &str) -> InstanceKey<'_> {
    InstanceKey::new("s", id)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn health(table: &Table, id: &str) -> Option<Health> {
    table.members.get(id).map(|member| member.instance.health)
}

/// Sweeps at every multiple of 10 s from after `from` until `to`.
fn sweep(table: &mut Table, from: u64, to: u64) -> Swept {
    let mut sum = Swept::default();
    for tick in (from / 10 + 1)..=(to / 10) {
        let swept = table.sweep(secs(tick * 10));
        sum.expired += swept.expired;
        sum.evicted += swept.evicted;
    }
    sum
}

#[test]
fn an_instance_is_unknown_until_it_is_heard_of() {
    let mut table = table();
    table.register(instance("a"), secs(0)).unwrap();
    assert_eq!(health(&table, "a"), Some(Health::Unknown));
    assert_eq!(table.heartbeat(key("a"), secs(1)), Ok(true));
    assert_eq!(health(&table, "a"), Some(Health::Healthy));
    assert_eq!(table.heartbeat(key("a"), secs(2)), Ok(false), "the second changes nothing");
}

#[test]
fn registering_again_replaces_and_never_duplicates() {
    let mut table = table();
    table.register(instance("a").with_health(Health::Healthy), secs(0)).unwrap();
    table.register(instance("a").with_zone("z"), secs(1)).unwrap();
    let listing = table.listing();
    assert_eq!(listing.len(), 1);
    assert_eq!((listing[0].zone.as_deref(), listing[0].health), (Some("z"), Health::Unknown));
}

#[test]
fn silence_makes_unhealthy_then_forgotten_and_a_heartbeat_revives() {
    let mut table = table();
    for id in ["a", "b"] {
        table.register(instance(id).with_health(Health::Healthy), secs(0)).unwrap();
    }
    assert_eq!(sweep(&mut table, 0, 20), Swept::default());
    assert_eq!(sweep(&mut table, 20, 30), Swept { expired: 2, evicted: 0 });
    assert_eq!(table.heartbeat(key("a"), secs(35)), Ok(true));
    assert_eq!(health(&table, "a"), Some(Health::Healthy));
    assert_eq!(sweep(&mut table, 35, 80), Swept { expired: 1, evicted: 0 });
    assert_eq!(sweep(&mut table, 80, 90), Swept { expired: 0, evicted: 1 });
    assert_eq!(health(&table, "b"), None);
    assert_eq!(
        table.heartbeat(key("b"), secs(91)),
        Err(Refused::Unknown),
        "it must register again"
    );
}

#[test]
fn a_draining_instance_stays_so_through_heartbeats_and_silence() {
    let mut table = table();
    table.register(instance("a").with_health(Health::Healthy), secs(0)).unwrap();
    assert_eq!(table.drain(key("a")), Ok(true));
    assert_eq!(table.heartbeat(key("a"), secs(5)), Ok(false));
    assert_eq!(health(&table, "a"), Some(Health::Draining));
    sweep(&mut table, 5, 40);
    assert_eq!(health(&table, "a"), Some(Health::Unhealthy));
    assert_eq!(table.heartbeat(key("a"), secs(41)), Ok(true));
    assert_eq!(health(&table, "a"), Some(Health::Draining));
}

#[test]
fn one_drained_while_silent_is_draining_when_it_speaks() {
    let mut table = table();
    table.register(instance("a").with_health(Health::Healthy), secs(0)).unwrap();
    sweep(&mut table, 0, 30);
    assert_eq!(table.drain(key("a")), Ok(false), "nobody picked it anyway");
    table.heartbeat(key("a"), secs(31)).unwrap();
    assert_eq!(health(&table, "a"), Some(Health::Draining));
}

#[test]
fn what_an_older_run_says_late_does_not_count() {
    let mut table = table();
    let run = |n| instance("a").with_health(Health::Healthy).with_incarnation(n);
    let of = |n| key("a").with_incarnation(n);
    table.register(run(7), secs(0)).unwrap();
    table.register(run(8), secs(1)).unwrap();
    assert_eq!(table.register(run(7), secs(2)), Err(Refused::Superseded));
    assert_eq!(table.heartbeat(of(7), secs(2)), Err(Refused::Superseded));
    assert_eq!(table.drain(of(7)), Err(Refused::Superseded));
    assert_eq!(table.deregister(of(7)), Err(Refused::Superseded));
    assert_eq!(table.heartbeat(of(9), secs(2)), Err(Refused::Unknown), "it must register first");
    assert_eq!(table.heartbeat(of(8), secs(2)), Ok(false));
    assert_eq!(table.heartbeat(key("a"), secs(2)), Ok(false), "of no particular run");
    assert_eq!(health(&table, "a"), Some(Health::Healthy));
}

#[test]
fn an_older_run_takes_the_place_of_a_younger_that_fell_silent() {
    let mut table = table();
    table
        .register(instance("a").with_health(Health::Healthy).with_incarnation(8), secs(0))
        .unwrap();
    sweep(&mut table, 0, 30);
    table
        .register(instance("a").with_health(Health::Healthy).with_incarnation(7), secs(31))
        .unwrap();
    assert_eq!(table.heartbeat(key("a").with_incarnation(7), secs(32)), Ok(false));
}

#[test]
fn a_pause_of_our_own_expires_nobody_who_was_well() {
    let mut table = table();
    table.register(instance("beats"), secs(0)).unwrap();
    table.register(instance("dead").with_health(Health::Healthy), secs(0)).unwrap();
    sweep(&mut table, 0, 10);
    table.heartbeat(key("beats"), secs(10)).unwrap();

    let resumed = secs(3_600);
    assert_eq!(table.sweep(resumed), Swept::default());
    assert_eq!(health(&table, "beats"), Some(Health::Healthy));
    // Whoever does not come back is out after the rest of its TTL.
    table.heartbeat(key("beats"), resumed + secs(1)).unwrap();
    assert_eq!(table.sweep(resumed + secs(10)), Swept { expired: 1, evicted: 0 });
    assert_eq!(health(&table, "dead"), Some(Health::Unhealthy));
    assert_eq!(health(&table, "beats"), Some(Health::Healthy));
}

#[test]
fn a_heartbeat_between_a_pause_and_the_sweep_after_it_counts_in_full() {
    let mut table = table();
    table.register(instance("a"), secs(0)).unwrap();
    table.heartbeat(key("a"), secs(1_000)).unwrap();
    for tick in [1_001, 1_011, 1_021] {
        assert_eq!(table.sweep(secs(tick)), Swept::default(), "at {tick}");
    }
    assert_eq!(table.sweep(secs(1_031)).expired, 1);
}

#[test]
fn the_sweep_interval_is_never_so_long_that_a_pause_uses_up_the_ttl() {
    let policy = Policy::default().ttl(secs(3)).sweep_every(secs(10));
    assert_eq!(policy.sweep_used(), secs(1));
    assert!(Policy::default().ttl(Duration::ZERO).sweep_used() > Duration::ZERO);
}

#[derive(Clone, Debug)]
enum Event {
    Beat(u8),
    Register(u8),
    Drain(u8),
    Deregister(u8),
}

fn event() -> impl Strategy<Value = (u64, Event)> {
    let kind = prop_oneof![
        6 => (0..4_u8).prop_map(Event::Beat),
        2 => (0..4_u8).prop_map(Event::Register),
        1 => (0..4_u8).prop_map(Event::Drain),
        1 => (0..4_u8).prop_map(Event::Deregister),
    ];
    (0..20_u64, kind)
}

proptest! {
    /// With sweeps on time: nobody is unhealthy before the TTL, and nobody healthy a sweep after it; forgotten between the
    /// stated 90 s and a sweep later.
    #[test]
    fn expiry_is_never_early_and_at_most_one_sweep_late(events in prop::collection::vec(event(), 1..80)) {
        let mut table = table();
        let mut heard = BTreeMap::<String, u64>::new();
        let mut now = 0;
        for (later, event) in events {
            sweep(&mut table, now, now + later);
            now += later;
            for (id, at) in &heard {
                let silence = now - at;
                match health(&table, id) {
                    Some(Health::Unhealthy) => prop_assert!(silence >= 30, "unhealthy after {silence} s"),
                    Some(_) => prop_assert!(silence < 40, "still listed as well after {silence} s"),
                    None => prop_assert!(silence >= 90, "forgotten after {silence} s"),
                }
                prop_assert!(silence < 100 || health(&table, id).is_none());
            }
            let id = |n: u8| n.to_string();
            match event {
                Event::Beat(n) => {
                    if table.heartbeat(key(&id(n)), secs(now)).is_ok() {
                        heard.insert(id(n), now);
                    }
                }
                Event::Register(n) => {
                    table.register(instance(&id(n)), secs(now)).unwrap();
                    heard.insert(id(n), now);
                }
                Event::Drain(n) => drop(table.drain(key(&id(n)))),
                Event::Deregister(n) => {
                    let was_there = health(&table, &id(n)).is_some();
                    prop_assert_eq!(table.deregister(key(&id(n))).is_ok(), was_there);
                    heard.remove(&id(n));
                }
            }
        }
    }

    /// However late the sweeps come, who beats in time by the sweeps' own measure is never unhealthy.
    #[test]
    fn late_sweeps_never_expire_who_beats(gaps in prop::collection::vec(1..10_000_u64, 1..50)) {
        let mut table = table();
        table.register(instance("a").with_health(Health::Healthy), secs(0)).unwrap();
        let mut now = 0;
        for gap in gaps {
            now += gap;
            // Two sweeps for each heartbeat: it came before the one, and missed the other.
            prop_assert_eq!(table.sweep(secs(now)), Swept::default());
            table.heartbeat(key("a"), secs(now)).unwrap();
            now += gap;
            prop_assert_eq!(table.sweep(secs(now)), Swept::default());
        }
    }
}
