use std::{
    collections::HashMap,
    future::pending,
    sync::{Mutex, PoisonError},
};

use super::*;

/// What a name server says, until it says something else.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<HashMap<String, Option<Vec<IpAddr>>>>>);

impl Names {
    /// `None`: it does not answer.
    fn say(&self, name: &str, addresses: Option<&[&str]>) {
        let parsed = addresses.map(|them| them.iter().map(|it| it.parse().unwrap()).collect());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), parsed);
    }

    fn follow(&self, hosts: &[(&str, u16)]) -> (Watch, LookingUp) {
        let names = self.0.clone();
        let hosts: Vec<_> =
            hosts.iter().map(|(name, port)| Host { name: (*name).into(), port: *port }).collect();
        spawn("shop".into(), &hosts, move |host| {
            let said =
                names.lock().unwrap_or_else(PoisonError::into_inner).get(&*host.name).cloned();
            async move {
                match said {
                    Some(Some(addresses)) => Ok(addresses),
                    Some(None) => pending().await,
                    None => Err(io::ErrorKind::NotFound.into()),
                }
            }
        })
    }
}

/// The ids, after the next two rounds.
async fn seen(watch: &Watch) -> Vec<String> {
    sleep(2 * (AGAIN + LIMIT)).await;
    watch.snapshot().healthy().map(|instance| instance.id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_name_is_as_many_instances_as_it_has_addresses_and_follows_them() {
    let names = Names::default();
    names.say("a", Some(&["10.0.0.2", "10.0.0.1", "10.0.0.1"]));
    let (watch, _looking) = names.follow(&[("a", 80)]);
    assert_eq!(seen(&watch).await, ["a:80@10.0.0.1", "a:80@10.0.0.2"]);
    let first = watch.snapshot().instances()[0].clone();
    assert_eq!(first.authority(), "10.0.0.1:80");
    assert_eq!(named_in(&first.id), Some("a:80"));

    names.say("a", Some(&["10.0.0.2", "10.0.0.3"]));
    assert_eq!(seen(&watch).await, ["a:80@10.0.0.2", "a:80@10.0.0.3"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_known_stays_while_the_name_server_fails_hangs_or_knows_nothing() {
    let names = Names::default();
    names.say("a", Some(&["10.0.0.1"]));
    let (watch, _looking) = names.follow(&[("a", 80)]);
    assert_eq!(seen(&watch).await, ["a:80@10.0.0.1"]);
    for said in [None, Some(&[][..])] {
        names.say("a", said);
        assert_eq!(seen(&watch).await, ["a:80@10.0.0.1"]);
    }
    names.0.lock().unwrap().clear();
    assert_eq!(seen(&watch).await, ["a:80@10.0.0.1"]);
    names.say("a", Some(&["10.0.0.9"]));
    assert_eq!(seen(&watch).await, ["a:80@10.0.0.9"], "and it goes on when it is back");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_answers_for_keeps_no_other_from_being_found() {
    let names = Names::default();
    names.say("hangs", None);
    names.say("works", Some(&["10.0.0.1"]));
    let (mut watch, _looking) = names.follow(&[("hangs", 80), ("works", 81)]);
    let begun = tokio::time::Instant::now();
    let found = watch.changed().await;
    assert_eq!(&*found.instances()[0].id, "works:81@10.0.0.1");
    assert!(begun.elapsed() < LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_host_with_addresses_of_both_families_is_not_two_instances() {
    let names = Names::default();
    names.say("both", Some(&["::1", "127.0.0.1", "fe80::1"]));
    names.say("six", Some(&["2001:db8::1", "fe80::1"]));
    names.say("10.0.0.7", Some(&["10.0.0.7"]));
    let (watch, _looking) = names.follow(&[("both", 1), ("six", 2), ("10.0.0.7", 3)]);
    assert_eq!(seen(&watch).await, ["10.0.0.7:3", "both:1@127.0.0.1", "six:2@2001:db8::1"]);
    assert_eq!(named_in("10.0.0.7:3"), None);
    assert_eq!(watch.snapshot().instances()[2].authority(), "[2001:db8::1]:2");
}

#[tokio::test(start_paused = true)]
async fn addresses_of_a_name_are_bounded() {
    let names = Names::default();
    let many: Vec<String> = (0..1000).map(|n| format!("10.0.{}.{}", n / 250, n % 250)).collect();
    names.say("a", Some(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    let (watch, _looking) = names.follow(&[("a", 80)]);
    assert_eq!(seen(&watch).await.len(), MOST);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_any_more_when_the_upstream_is_gone() {
    let asked = Arc::new(());
    let held = asked.clone();
    let host = Host { name: "a".into(), port: 80 };
    let (_watch, looking) = spawn("shop".into(), &[host], move |_| {
        let _held = &held;
        std::future::ready(Ok(vec![]))
    });
    sleep(AGAIN * 3).await;
    drop(looking);
    sleep(AGAIN).await;
    assert_eq!(Arc::strong_count(&asked), 1);
}
