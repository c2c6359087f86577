use super::*;
use proptest::prelude::*;
use std::num::NonZeroU32;

fn instance(id: impl ToString) -> Instance {
    Instance::new("s", "h", 1).with_id(id.to_string()).with_health(Health::Healthy)
}

const fn standing(instance: &Instance) -> Standing<'_> {
    Standing { instance, ejected: false, warmth: 1.0 }
}

fn plan(fleet: &Fleet, instances: &[Instance]) -> Plan {
    fleet.plan(&instances.iter().map(standing).collect::<Vec<_>>())
}

/// `up` healthy ones and `down` unhealthy ones in a zone.
fn zone(name: &str, up: usize, down: usize) -> Vec<Instance> {
    let of = |health: Health, number: usize| {
        instance(format!("{name}-{health:?}-{number}")).with_zone(name).with_health(health)
    };
    let up = (0..up).map(|number| of(Health::Healthy, number));
    up.chain((0..down).map(|number| of(Health::Unhealthy, number))).collect()
}

fn part_in(name: &str, plan: &Plan, instances: &[Instance]) -> f64 {
    let here = plan.open.iter().zip(&plan.even);
    let here: f64 = here
        .filter(|(index, _)| instances[**index].zone.as_deref() == Some(name))
        .map(|(_, share)| share)
        .sum();
    here / plan.even.iter().sum::<f64>()
}

#[test]
fn by_default_all_healthy_ones_take_calls_alike() {
    let of = |health| instance(format!("{health:?}")).with_health(health);
    let all = [Health::Unknown, Health::Healthy, Health::Unhealthy, Health::Draining].map(of);
    let plan = plan(&Fleet::new(), &all);
    assert_eq!((plan.open, plan.even, plan.panicking), (vec![1], vec![1.0], false));
}

#[test]
fn panic_takes_the_unhealthy_and_the_ejected_but_never_the_draining_or_unheard_of() {
    let of = |health| instance(format!("{health:?}")).with_health(health);
    let all = [Health::Unhealthy, Health::Healthy, Health::Draining, Health::Unknown].map(of);
    let fleet = Fleet::new().panic_below(Ratio::percent(51));
    assert!(plan(&fleet, &all).panicking);
    assert_eq!(plan(&fleet, &all).open, [0, 1]);
    assert_eq!(
        plan(&Fleet::new().panic_below(Ratio::percent(50)), &all).open,
        [1],
        "half is not below half"
    );
    let ejected = Standing { ejected: true, ..standing(&all[1]) };
    assert_eq!(fleet.plan(&[ejected, standing(&all[2])]).open, [0]);
}

#[test]
fn who_is_not_within_the_fleet_takes_no_part_in_preference_or_panic() {
    let canary = |id: &str, health| instance(id).with_tag("canary").with_health(health);
    let all = [
        canary("a", Health::Unhealthy).with_zone("here"),
        canary("b", Health::Healthy),
        instance("c").with_zone("here"),
        instance("d"),
    ];
    let within = || Fleet::new().within(|instance| instance.tags.contains("canary"));
    let is_here = |instance: &Instance| instance.zone.as_deref() == Some("here");
    assert_eq!(plan(&within(), &all).open, [1]);
    assert_eq!(plan(&within().prefer(is_here), &all).open, [1], "the preferred one is ill");
    assert!(plan(&within().only(is_here), &all).open.is_empty());
    assert_eq!(plan(&within().panic_below(Ratio::percent(60)), &all).open, [0, 1]);
}

#[test]
fn a_rule_takes_a_subset_and_only_a_preference_gives_way() {
    let all = [instance("a").with_tag("canary").with_health(Health::Unhealthy), instance("b")];
    let is_canary = |instance: &Instance| instance.tags.contains("canary");
    assert!(plan(&Fleet::new().only(is_canary), &all).open.is_empty());
    assert_eq!(plan(&Fleet::new().prefer(is_canary), &all).open, [1]);
    let all = all.map(|instance| instance.with_health(Health::Healthy));
    assert_eq!(plan(&Fleet::new().only(is_canary), &all).open, [0]);
    assert_eq!(plan(&Fleet::new().prefer(is_canary), &all).open, [0]);
}

#[test]
fn calls_stay_in_the_zone_while_seven_of_ten_are_up_and_spill_over_in_proportion_below() {
    for (up, down, part) in [(10, 0, 1.0), (7, 3, 1.0), (35, 65, 0.5), (7, 93, 0.1), (0, 9, 0.0)] {
        let mut all = zone("here", up, down);
        all.extend(zone("there", 3, 0));
        let stays = part_in("here", &plan(&Fleet::new().zone("here"), &all), &all);
        assert!((stays - part).abs() < 1e-9, "{up} of {}: {stays}", up + down);
    }
}

#[test]
fn without_another_zone_or_in_panic_the_zone_does_not_matter() {
    let here = zone("here", 1, 9);
    assert_eq!(plan(&Fleet::new().zone("here"), &here).even, [1.0]);
    let mut all = zone("here", 1, 9);
    all.extend(zone("there", 1, 0));
    let panicking = plan(&Fleet::new().zone("here").panic_below(Ratio::percent(50)), &all);
    assert_eq!(panicking.even, [1.0; 11]);
}

#[test]
fn weights_and_newcomers_work_within_zones() {
    let weight = NonZeroU32::new(3).unwrap();
    let here = [instance("a").with_zone("z").with_weight(weight), instance("b").with_zone("z")];
    let there = instance("c");
    let mut standings: Vec<_> = here.iter().map(standing).collect();
    standings.push(standing(&there));
    standings[1].warmth = 0.1;
    let plan = Fleet::new().zone("z").plan(&standings);
    assert_eq!((plan.even, plan.weighted), (vec![1.0, 0.1, 0.0], vec![3.0, 0.1, 0.0]));
}

#[test]
fn a_newcomer_rises_from_a_tenth_in_a_straight_line() {
    let window = Duration::from_secs(100);
    let at = |secs| warmth(Duration::from_secs(secs), window);
    assert_eq!(at(0), Some((0.1, Duration::from_secs(5))));
    assert_eq!(at(52), Some((0.5, Duration::from_secs(55))));
    assert_eq!(at(99), Some((0.95, Duration::from_secs(100))));
    assert_eq!(at(100), None);
    assert_eq!(warmth(Duration::ZERO, Duration::ZERO), None);
    assert!(warmth(Duration::ZERO, Duration::from_nanos(1)).is_some());
}

#[test]
fn subsets_of_many_clients_load_all_instances_alike() {
    let all: Vec<_> = (0..50).map(instance).collect();
    let mut clients = vec![0; 50];
    for client in 0..1_000 {
        let size = NonZeroUsize::new(10).unwrap();
        for index in plan(&Fleet::new().subset(size, format!("client-{client}")), &all).open {
            clients[index] += 1;
        }
    }
    // 200 each, with a deviation of 13.
    assert!(clients.iter().all(|count| (140..260).contains(count)), "{clients:?}");
}

proptest! {
    #[test]
    fn one_that_leaves_changes_at_most_one_place_of_a_subset(len in 2..60_usize, gone: usize, size in 1..20_usize) {
        let fleet = Fleet::new().subset(NonZeroUsize::new(size).unwrap(), "me");
        let mut all: Vec<_> = (0..len).map(instance).collect();
        let ids = |all: &[Instance]| -> Vec<_> {
            plan(&fleet, all).open.iter().map(|&index| all[index].id.clone()).collect()
        };
        let before = ids(&all);
        prop_assert_eq!(before.len(), size.min(len));
        all.remove(gone % len);
        let after = ids(&all);
        prop_assert!(after.iter().filter(|id| !before.contains(id)).count() <= 1);
    }

    #[test]
    fn shares_are_never_negative_and_never_all_nothing(
        zones in prop::collection::vec((0..3_u8, any::<bool>(), 1..1_000_u32, 0.1..=1.0), 1..20),
        enough in 0..=1_000_000_u32,
    ) {
        let all: Vec<_> = zones.iter().enumerate().map(|(id, (zone, up, weight, _))| {
            let health = if *up { Health::Healthy } else { Health::Unhealthy };
            let weight = NonZeroU32::new(*weight).unwrap();
            instance(id).with_zone(zone.to_string()).with_health(health).with_weight(weight)
        }).collect();
        let standings: Vec<_> =
            all.iter().zip(&zones).map(|(i, zone)| Standing { warmth: zone.3, ..standing(i) }).collect();
        let plan = Fleet::new().zone_with("0", Ratio::per_million(enough)).plan(&standings);
        for shares in [&plan.even, &plan.weighted] {
            prop_assert!(shares.iter().all(|share| share.is_finite() && *share >= 0.0));
            prop_assert!(shares.is_empty() || shares.iter().sum::<f64>() > 0.0);
        }
    }
}
