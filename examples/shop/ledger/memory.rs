//! Rows in this process.

use std::{
    collections::{BTreeMap, HashMap},
    future::ready,
    sync::Mutex,
};

use super::{Answer, Decide, Engine, Page, Place, Row};
use crate::api::lock;

/// Rows that end with the process.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<&'static str, BTreeMap<String, String>>>);

impl Engine for Memory {
    fn change(&self, places: Vec<Place>, decide: Decide) -> Answer<'_, ()> {
        let mut kinds = lock(&self.0);
        let found = |place: &Place| kinds.get(place.kind)?.get(&place.key).cloned();
        let mut page =
            Page::new(places.into_iter().map(|place| (place.clone(), found(&place))).collect());
        // It is this shop's own, short, and waits for nothing.
        decide(&mut page);
        for Row { place: Place { kind, key }, value } in page.written {
            let rows = kinds.entry(kind).or_default();
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Box::pin(ready(Ok(())))
    }

    fn get(&self, place: Place) -> Answer<'_, Option<String>> {
        let kinds = lock(&self.0);
        let value = kinds.get(place.kind).and_then(|rows| rows.get(&place.key)).cloned();
        Box::pin(ready(Ok(value)))
    }

    fn list(&self, kind: &'static str) -> Answer<'_, Vec<(String, String)>> {
        let kinds = lock(&self.0);
        let rows = kinds.get(kind).into_iter().flatten();
        let rows = rows.map(|(key, value)| (key.clone(), value.clone())).collect();
        Box::pin(ready(Ok(rows)))
    }
}
