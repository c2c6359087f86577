use std::{
    num::NonZeroU32,
    ops::{Deref, DerefMut},
};

use gusset_call::Clock;
use proptest::prelude::*;

use super::{member::CALM, *};
use crate::Policy;

/// A table, and the ticks that a registry would give it, every 10 s.
struct Ticked {
    table: Table,
    slots: u32,
}

/// TTL 30 s, sweeps every 10 s, forgotten after 90 s.
fn table() -> Ticked {
    with(Policy::default())
}

fn with(policy: Policy) -> Ticked {
    let board = Arc::new(Board::new(Clock::new()));
    Ticked { table: Table::new(Rules::new(&policy.sweep_every(secs(10))), board), slots: 0 }
}

impl Ticked {
    fn register(&mut self, instance: Instance, now: Duration) -> Result<(), Refused> {
        self.table.admits(instance.key())?;
        self.slots += 1;
        let slot = self.table.board.occupy(self.slots);
        self.table.register(instance, now, Some(slot));
        Ok(())
    }

    /// One tick, in which all are looked at. A registry looks at those alone that may be silent.
    fn sweep(&mut self, now: Duration) -> Swept {
        self.board.advance(now);
        let ids: Vec<_> = self.members.keys().cloned().collect();
        let mut swept = Swept::default();
        for id in ids {
            self.check(&id, &mut swept);
        }
        self.review(&mut swept);
        swept
    }
}

impl Deref for Ticked {
    type Target = Table;
    fn deref(&self) -> &Table {
        &self.table
    }
}

impl DerefMut for Ticked {
    fn deref_mut(&mut self) -> &mut Table {
        &mut self.table
    }
}

fn instance(id: &str) -> Instance {
    Instance::new("s", "h", 1).with_id(id)
}

fn healthy(id: &str) -> Instance {
    instance(id).with_health(Health::Healthy)
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

/// How many are listed as healthy, and how many of those are suspect.
fn well(table: &Table) -> (usize, usize) {
    let well = table.members.values().filter(|member| member.instance.health == Health::Healthy);
    let suspect = well.clone().filter(|member| member.instance.suspect);
    (well.count(), suspect.count())
}

/// Sweeps at every multiple of 10 s from after `from` until `to`.
fn sweep(table: &mut Ticked, from: u64, to: u64) -> Swept {
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
    table.register(healthy("a"), secs(0)).unwrap();
    table.register(instance("a").with_zone("z"), secs(1)).unwrap();
    let listing = table.listing();
    assert_eq!(listing.len(), 1);
    assert_eq!((listing[0].zone.as_deref(), listing[0].health), (Some("z"), Health::Unknown));
}

#[test]
fn silence_makes_unhealthy_then_forgotten_and_a_heartbeat_revives() {
    let mut table = table();
    for id in ["a", "b"] {
        table.register(healthy(id), secs(0)).unwrap();
    }
    assert_eq!(sweep(&mut table, 0, 30), Swept::default());
    assert_eq!(sweep(&mut table, 30, 40).expired, 2);
    assert_eq!(table.heartbeat(key("a"), secs(45)), Ok(true));
    assert_eq!(health(&table, "a"), Some(Health::Healthy));
    assert_eq!(sweep(&mut table, 45, 90), Swept { expired: 1, ..Swept::default() });
    assert_eq!(sweep(&mut table, 90, 100), Swept { evicted: 1, ..Swept::default() });
    assert_eq!(health(&table, "b"), None);
    assert_eq!(
        table.heartbeat(key("b"), secs(101)),
        Err(Refused::Unknown),
        "it must register again"
    );
}

#[test]
fn a_draining_instance_stays_so_through_heartbeats_and_silence() {
    let mut table = table();
    table.register(healthy("a"), secs(0)).unwrap();
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
    table.register(healthy("a"), secs(0)).unwrap();
    sweep(&mut table, 0, 40);
    assert_eq!(table.drain(key("a")), Ok(false), "nobody picked it anyway");
    table.heartbeat(key("a"), secs(41)).unwrap();
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
    sweep(&mut table, 0, 40);
    table.register(healthy("a").with_incarnation(7), secs(41)).unwrap();
    assert_eq!(table.heartbeat(key("a").with_incarnation(7), secs(42)), Ok(false));
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
    assert_eq!(table.sweep(resumed + secs(10)), Swept::default());
    assert_eq!(table.sweep(resumed + secs(20)), Swept { expired: 1, ..Swept::default() });
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
    let often = Policy::default().sweep_every(Duration::ZERO);
    assert_eq!(
        often.sweep_used(),
        Duration::from_millis(100),
        "nothing is remembered for more than 301 ticks"
    );
    let odd = Policy::default().ttl(secs(10)).sweep_every(secs(3));
    assert_eq!(odd.sweep_used(), Duration::from_millis(2_500), "the TTL is a multiple of it");
    for ttl in [0, 1, 7, 999, 86_400_000] {
        let policy = Policy::default().ttl(Duration::from_millis(ttl)).sweep_every(Duration::MAX);
        assert_eq!(Rules::new(&policy).span, 4, "{ttl}");
    }
}

#[test]
fn what_flaps_needs_more_heartbeats_each_time_up_to_a_bound() {
    let mut table = table();
    table.register(healthy("a"), secs(0)).unwrap();
    let mut now = 0;
    for needed in [1, 2, 3, 3, 3] {
        sweep(&mut table, now, now + 40);
        now += 40;
        assert_eq!(health(&table, "a"), Some(Health::Unhealthy), "{needed}");
        for beat in 1..=needed {
            for again in 0..3 {
                let revived = table.heartbeat(key("a"), secs(now)).unwrap();
                assert_eq!(revived, beat == needed && again == 0, "{beat} of {needed}");
            }
            sweep(&mut table, now, now + 10);
            now += 10;
        }
    }
    // A quarter of an hour of health, and it begins anew.
    for _ in 0..CALM {
        table.heartbeat(key("a"), secs(now)).unwrap();
        sweep(&mut table, now, now + 10);
        now += 10;
    }
    sweep(&mut table, now, now + 40);
    assert_eq!(table.heartbeat(key("a"), secs(now + 40)), Ok(true));
}

#[test]
fn what_a_check_finds_dead_no_heartbeat_makes_well() {
    let mut table = table();
    table.register(healthy("a"), secs(0)).unwrap();
    assert_eq!(table.report(key("a"), false, secs(0)), Ok(true));
    assert_eq!(table.heartbeat(key("a"), secs(1)), Ok(false));
    assert_eq!(health(&table, "a"), Some(Health::Unhealthy));
    for now in (0..300).step_by(10) {
        table.heartbeat(key("a"), secs(now)).unwrap();
        assert_eq!(sweep(&mut table, now, now + 10).evicted, 0, "it beats, so it is not forgotten");
    }
    assert_eq!(table.report(key("a"), true, secs(0)), Ok(true));
    assert_eq!(health(&table, "a"), Some(Health::Healthy));
}

#[test]
fn the_silence_of_what_is_checked_means_nothing() {
    let mut table = table();
    table.register(healthy("a").with_checks(), secs(0)).unwrap();
    assert_eq!(sweep(&mut table, 0, 1_000), Swept::default());
    table.report(key("a"), false, secs(0)).unwrap();
    assert_eq!(sweep(&mut table, 1_000, 2_000), Swept::default(), "to forget it is not ours");
    assert_eq!(health(&table, "a"), Some(Health::Unhealthy));
}

fn fleet(n: usize) -> Ticked {
    let mut table = table();
    for id in 0..n {
        table.register(healthy(&id.to_string()), secs(0)).unwrap();
    }
    table
}

/// Those of `ids` beat every 10 s.
fn beat(table: &mut Ticked, ids: std::ops::Range<usize>, from: u64, to: u64) -> Swept {
    let mut sum = Swept::default();
    for now in (from..to).step_by(10) {
        for id in ids.clone() {
            let _ = table.heartbeat(key(&id.to_string()), secs(now));
        }
        let swept = sweep(table, now, now + 10);
        sum.expired += swept.expired;
        sum.evicted += swept.evicted;
    }
    sum
}

#[test]
fn when_all_fall_silent_at_once_all_are_kept_and_called_suspect() {
    let mut table = fleet(10);
    beat(&mut table, 0..10, 0, 100);
    assert_eq!(beat(&mut table, 0..0, 100, 300), Swept::default());
    assert_eq!(well(&table), (10, 10));
    // The network is back: so is all.
    beat(&mut table, 0..10, 300, 310);
    assert_eq!(well(&table), (10, 0));
    assert!(!table.is_protected());
    assert_eq!(beat(&mut table, 1..10, 310, 350).expired, 1, "a single death is seen as ever");
}

#[test]
fn nobody_dips_while_the_silence_of_a_fleet_is_only_beginning_to_show() {
    let mut table = fleet(12);
    beat(&mut table, 0..12, 0, 100);
    // The last heartbeats were spread over an interval and a half.
    beat(&mut table, 4..12, 100, 110);
    beat(&mut table, 8..12, 110, 120);
    for now in (120..300).step_by(10) {
        sweep(&mut table, now, now + 10);
        assert_eq!(well(&table).0, 12, "at {now}");
    }
}

#[test]
fn a_protection_after_a_scale_down_ends_by_itself_and_stays_ended() {
    // Eureka's stuck self-preservation: six of ten were killed for good.
    let mut table = fleet(10);
    beat(&mut table, 0..10, 0, 100);
    beat(&mut table, 0..4, 100, 200);
    assert_eq!(well(&table), (10, 6));
    beat(&mut table, 0..4, 200, 750);
    assert_eq!(well(&table), (4, 0), "after 10 minutes");
    assert_eq!(beat(&mut table, 0..4, 750, 820).evicted, 6);
    assert!(!table.is_protected());
    // Four are expected now, and one is not most of them.
    assert_eq!(beat(&mut table, 0..3, 820, 860).expired, 1);
}

#[test]
fn a_protection_ends_when_those_it_waits_for_are_deregistered() {
    let mut table = fleet(10);
    beat(&mut table, 0..10, 0, 100);
    beat(&mut table, 0..4, 100, 200);
    for id in 4..10 {
        table.deregister(key(&id.to_string())).unwrap();
    }
    beat(&mut table, 0..4, 200, 210);
    assert!(!table.is_protected());
    assert_eq!(well(&table), (4, 0));
}

#[test]
fn a_protection_ends_a_ttl_after_most_are_back() {
    let mut table = fleet(10);
    beat(&mut table, 0..10, 0, 100);
    beat(&mut table, 0..0, 100, 200);
    assert_eq!(well(&table), (10, 10));
    beat(&mut table, 0..8, 200, 220);
    assert_eq!(well(&table), (10, 2), "the others have some time to come back as well");
    beat(&mut table, 0..8, 220, 250);
    assert_eq!(well(&table), (8, 0));
}

#[test]
fn a_check_decides_on_a_suspect() {
    let mut table = fleet(10);
    beat(&mut table, 0..10, 0, 100);
    beat(&mut table, 0..0, 100, 200);
    table.report(key("3"), false, secs(0)).unwrap();
    table.report(key("4"), true, secs(0)).unwrap();
    assert_eq!(well(&table), (9, 8));
}

#[test]
fn a_scale_down_by_deregistration_is_no_reason_to_protect_anybody() {
    let mut table = fleet(20);
    beat(&mut table, 0..20, 0, 100);
    for id in 5..20 {
        table.deregister(key(&id.to_string())).unwrap();
    }
    beat(&mut table, 0..5, 100, 300);
    assert!(!table.is_protected());
    assert_eq!(well(&table), (5, 0));
    // Five are expected now; four that fall silent are seen, fewer than ever make a case.
    assert_eq!(beat(&mut table, 0..1, 300, 350).expired, 4);
}

#[test]
fn what_is_expected_is_counted_anew_after_a_scale_up() {
    let mut table = fleet(6);
    beat(&mut table, 0..6, 0, 100);
    for id in 6..20 {
        table.register(healthy(&id.to_string()), secs(100)).unwrap();
    }
    beat(&mut table, 0..20, 100, 200);
    // Six of six were most, of twenty they are not.
    assert_eq!(beat(&mut table, 6..20, 200, 250).expired, 6);
    assert!(!table.is_protected());
}

#[test]
fn the_draining_and_the_unhealthy_stay_so_under_protection() {
    let mut table = fleet(10);
    beat(&mut table, 0..10, 0, 90);
    beat(&mut table, 1..10, 90, 130);
    assert_eq!(health(&table, "0"), Some(Health::Unhealthy));
    table.drain(key("1")).unwrap();
    beat(&mut table, 0..0, 130, 170);
    assert!(table.is_protected());
    assert_eq!(well(&table), (8, 8));
    assert_eq!(health(&table, "0"), Some(Health::Unhealthy));
    assert_eq!(health(&table, "1"), Some(Health::Unhealthy), "who leaves is not waited for");
}

#[test]
fn a_protection_ends_at_its_bound_though_nobody_ever_comes_back() {
    let mut table = fleet(10);
    beat(&mut table, 0..10, 0, 100);
    beat(&mut table, 0..0, 100, 720);
    assert!(table.is_protected());
    beat(&mut table, 0..0, 720, 750);
    assert!(!table.is_protected());
    assert_eq!(well(&table), (0, 0));
    assert_eq!(beat(&mut table, 0..0, 750, 900).evicted, 10);
}

#[test]
fn whom_a_check_sees_working_after_a_protection_is_expected_again() {
    let mut table = fleet(10);
    beat(&mut table, 0..10, 0, 100);
    beat(&mut table, 0..0, 100, 750);
    assert_eq!(well(&table), (0, 0), "the protection is over");
    for id in 0..10 {
        assert_eq!(table.report(key(&id.to_string()), true, secs(750)), Ok(true));
    }
    assert_eq!(well(&table), (10, 0));
    // All silent once more: it is as much of a surprise as the first time.
    beat(&mut table, 0..0, 750, 850);
    assert_eq!(well(&table), (10, 10));
}

proptest! {
    /// The share and the least number decide, and whatever they decide is over after the bound.
    #[test]
    fn more_than_the_share_is_kept_and_never_for_ever(n in 1..40_usize, silent in 0..40_usize) {
        let silent = silent.min(n);
        let mut table = fleet(n);
        beat(&mut table, 0..n, 0, 100);
        beat(&mut table, silent..n, 100, 150);
        let kept = silent >= 5 && silent * 2 > n;
        let expected = if kept { (n, silent) } else { (n - silent, 0) };
        prop_assert_eq!(well(&table), expected);
        beat(&mut table, silent..n, 150, 150 + 700);
        prop_assert_eq!(well(&table), (n - silent, 0));
        prop_assert_eq!(table.members.len(), n - silent);
        prop_assert!(!table.is_protected());
    }
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
        let mut table = with(Policy::default().rise(NonZeroU32::MIN));
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
        table.register(healthy("a"), secs(0)).unwrap();
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
