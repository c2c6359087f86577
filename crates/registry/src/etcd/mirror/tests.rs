use proptest::prelude::*;

use super::*;
use crate::last_known::Mirror as _;

fn instance(id: &str, version: i64) -> Instance {
    Instance::new("s", "h", 1).with_id(id).with_version(version.to_string())
}

fn put(id: &str, revision: i64) -> Change {
    Change { id: id.into(), revision, instance: Some(instance(id, revision)) }
}

fn delete(id: &str, revision: i64) -> Change {
    Change { id: id.into(), revision, instance: None }
}

/// Ids, each with the revision at which it was put.
fn content(mirror: &Mirror) -> Vec<(String, String)> {
    let pair =
        |instance: Arc<Instance>| (instance.id.to_string(), instance.version.clone().unwrap());
    mirror.instances().into_iter().map(pair).collect()
}

fn listed(mirror: &mut Mirror, generation: u64, revision: i64, ids: &[(&str, i64)]) -> bool {
    let instances: Vec<_> = ids.iter().map(|(id, put)| instance(id, *put)).collect();
    mirror.list(generation, revision, instances, false)
}

#[test]
fn an_event_that_the_listing_contains_is_not_applied_again() {
    let mut mirror = Mirror::new(9);
    assert!(!mirror.is_known());
    assert!(listed(&mut mirror, 1, 7, &[("a", 7)]));
    assert!(mirror.is_known());
    assert_eq!(mirror.apply(1, delete("a", 6)), Applied::Known);
    assert_eq!(mirror.apply(1, delete("a", 8)), Applied::Yes);
    assert!(content(&mirror).is_empty());
}

#[test]
fn a_listing_older_than_what_is_known_changes_nothing() {
    let mut mirror = Mirror::new(9);
    listed(&mut mirror, 1, 7, &[]);
    mirror.apply(1, put("a", 9));
    assert!(!listed(&mut mirror, 1, 8, &[]));
    assert_eq!(content(&mirror).len(), 1);
    assert!(listed(&mut mirror, 1, 9, &[("a", 9)]));
}

#[test]
fn what_a_younger_connection_lists_is_believed_at_any_revision() {
    let mut mirror = Mirror::new(9);
    listed(&mut mirror, 1, 700, &[("a", 7)]);
    assert!(listed(&mut mirror, 2, 3, &[("b", 2)]));
    assert_eq!(mirror.apply(1, put("c", 800)), Applied::Known, "of the etcd that was");
    assert_eq!(mirror.apply(2, put("d", 4)), Applied::Yes);
    assert_eq!(content(&mirror).len(), 2);
    assert!(!listed(&mut mirror, 1, 900, &[]));
}

#[test]
fn no_more_are_held_than_there_is_room_for() {
    let mut mirror = Mirror::new(2);
    listed(&mut mirror, 1, 1, &[]);
    for (revision, id) in [(2, "a"), (3, "b")] {
        assert_eq!(mirror.apply(1, put(id, revision)), Applied::Yes);
    }
    assert_eq!(mirror.apply(1, put("c", 4)), Applied::Cut);
    assert_eq!(mirror.apply(1, put("a", 5)), Applied::Yes, "known ones may change");
    assert_eq!(mirror.instances().len(), 2);
    assert_eq!(mirror.apply(1, delete("c", 6)), Applied::Yes);
    assert_eq!(mirror.apply(1, delete("a", 7)), Applied::Room);
}

proptest! {
    /// A history of puts and deletes; listings of any of its revisions are mixed into the events, which come in order.
    #[test]
    fn listings_and_events_in_any_mixture_end_in_the_last_state(
        history in prop::collection::vec((0..4_usize, any::<bool>()), 1..40),
        listings in prop::collection::vec((0..40_usize, 0..40_usize), 0..8),
    ) {
        let names = ["a", "b", "c", "d"];
        let mut states = vec![BTreeMap::new()];
        let mut changes = Vec::new();
        for (n, (who, is_put)) in history.iter().enumerate() {
            let (revision, id) = (n as i64 + 1, names[*who]);
            let mut state: BTreeMap<&str, i64> = states[n].clone();
            if *is_put {
                state.insert(id, revision);
                changes.push(put(id, revision));
            } else {
                state.remove(id);
                changes.push(delete(id, revision));
            }
            states.push(state);
        }
        let mut mirror = Mirror::new(9);
        listed(&mut mirror, 1, 0, &[]);
        for (n, change) in changes.into_iter().enumerate() {
            for (_, of) in listings.iter().filter(|(at, _)| *at == n) {
                let of = (*of).min(states.len() - 1);
                let state: Vec<_> = states[of].iter().map(|(id, put)| (*id, *put)).collect();
                listed(&mut mirror, 1, of as i64, &state);
            }
            mirror.apply(1, change);
        }
        let last = states.last().unwrap().iter();
        let last: Vec<_> = last.map(|(id, put)| ((*id).to_owned(), put.to_string())).collect();
        prop_assert_eq!(content(&mirror), last);
    }
}
