//! Makes one of what several stores or processes tell. Processes need not all be of the same release: what is missing or of another kind counts as unknown.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::Page;

/// As many as one process lists.
const TRACES: usize = 200;
const LOGS: usize = 100;
const ALL_TRACES: usize = 10_000;

/// Adds what others say to a page.
pub(crate) fn page(page: Page, own: &mut Value, theirs: Value) {
    if !theirs.is_object() || theirs["absent"] == true {
        return;
    }
    if own["absent"] == true || !own.is_object() {
        *own = json!({});
    }
    match page {
        Page::Map => map(own, theirs),
        Page::Breakers | Page::Limits | Page::Canary | Page::Switches => lists(own, theirs),
        Page::Traces => {
            let mut theirs = theirs;
            add(&mut own["stats"], &theirs["stats"].take());
            let newest = joined(own, &mut theirs, "newest");
            own["newest"] = traces(newest, TRACES);
            let mut logs = joined(own, &mut theirs, "logs");
            // Numbers are of one process each; with the time they tell apart those of all.
            for log in logs.iter_mut().filter(|log| log["number"].is_number()) {
                log["number"] = format!("{}-{}", log["number"], log["unix_nanos"]).into();
            }
            logs.sort_by_key(|log| std::cmp::Reverse(log["unix_nanos"].as_u64()));
            logs.truncate(LOGS);
            own["logs"] = logs.into();
        }
        Page::Sagas => {
            let mut theirs = theirs;
            let counts = joined(own, &mut theirs, "counts");
            // Processes that share a store tell of the same sagas.
            let mut is_shared = false;
            own["sagas"] =
                by(joined(own, &mut theirs, "sagas"), &["saga"], |_, _| is_shared = true);
            own["counts"] = by(counts, &["state"], |mine, more| {
                let (a, b) = (count(&mine["count"]), count(&more["count"]));
                mine["count"] = json!(if is_shared { a.max(b) } else { a + b });
            });
        }
        Page::Broker => {
            let mut theirs = theirs;
            let (groups, letters) =
                (joined(own, &mut theirs, "groups"), joined(own, &mut theirs, "letters"));
            add(own, &theirs);
            (own["groups"], own["letters"]) = (groups.into(), letters.into());
        }
    }
}

/// Adds what others know of one thing.
pub(crate) fn detail(kind: &str, own: &mut Value, mut theirs: Value) {
    if kind == "traces" && own.is_object() {
        for list in ["traces", "spans", "logs"] {
            if own[list].is_array() || theirs[list].is_array() {
                own[list] = joined(own, &mut theirs, list).into();
            }
        }
    }
}

/// Brings what was joined into the order in which one process tells it.
pub(crate) fn arrange(kind: &str, id: &str, found: &mut Value) {
    match (kind, id) {
        ("traces", "all") => {
            if let Value::Array(all) = found["traces"].take() {
                found["traces"] = traces(all, ALL_TRACES);
            }
        }
        ("traces", _) => {
            if let Value::Array(rows) = found["spans"].take() {
                found["spans"] = waterfall(rows).into();
            }
            if let Some(logs) = found["logs"].as_array_mut() {
                logs.sort_by_key(|log| log["unix_nanos"].as_u64());
            }
        }
        _ => {}
    }
}

/// Adds numbers to those of the same name, and takes what was not there.
pub(crate) fn add(own: &mut Value, theirs: &Value) {
    let Some(theirs) = theirs.as_object() else { return };
    if !own.is_object() {
        *own = json!({});
    }
    for (name, more) in theirs {
        let mine = &mut own[name.as_str()];
        match (mine.as_u64(), more.as_u64()) {
            (Some(mine_is), Some(more)) => *mine = mine_is.saturating_add(more).into(),
            _ if mine.is_null() => *mine = more.clone(),
            _ => {}
        }
    }
}

fn map(own: &mut Value, mut theirs: Value) {
    let services = joined(own, &mut theirs, "services");
    own["services"] = by(services, &["name"], |mine, mut more| {
        let instances = joined(mine, &mut more, "instances");
        mine["instances"] = by(instances, &["id"], |known, more| {
            // One of them may know more, as a gateway knows the circuit.
            for (name, value) in more.as_object().into_iter().flatten() {
                if known[name].is_null() {
                    known[name] = value.clone();
                }
            }
        });
        if let (Some(a), Some(b)) = (mine["active"].as_i64(), more["active"].as_i64()) {
            mine["active"] = a.saturating_add(b).into();
        } else if mine["active"].is_null() {
            mine["active"] = more["active"].take();
        }
        figures(&mut mine["traffic"], more["traffic"].take());
    });
    let edges = joined(own, &mut theirs, "edges");
    own["edges"] = by(edges, &["from", "to"], |mine, mut more| {
        let retries = more["retries"].take();
        if mine["retries"].is_null() {
            mine["retries"] = retries;
        } else {
            add(&mut mine["retries"], &retries);
        }
        figures(mine, more);
    });
    own["gateways"] = joined(own, &mut theirs, "gateways").into();
    own["left_out"] = json!(count(&own["left_out"]) + count(&theirs["left_out"]));
    let window = number(&own["window_ms"]).max(number(&theirs["window_ms"]));
    own["window_ms"] = json!(window);
}

/// Sums; of latencies the worst, since two quantiles make no third one.
fn figures(own: &mut Value, theirs: Value) {
    if !theirs.is_object() {
        return;
    }
    if !own.is_object() {
        *own = theirs;
        return;
    }
    for name in ["calls", "errors"] {
        own[name] = json!(count(&own[name]) + count(&theirs[name]));
    }
    for (name, is_worst) in [("rate", false), ("p50_ms", true), ("p99_ms", true)] {
        if let Some(more) = theirs[name].as_f64() {
            let mine = number(&own[name]);
            own[name] = json!(if is_worst { mine.max(more) } else { mine + more });
        }
    }
}

fn lists(own: &mut Value, mut theirs: Value) {
    let names: Vec<_> = theirs.as_object().into_iter().flat_map(Map::keys).cloned().collect();
    for name in names {
        if theirs[&name].is_array() {
            own[&name] = joined(own, &mut theirs, &name).into();
        }
    }
}

/// Both lists of this name, ours first; of objects, as all of them are.
fn joined(own: &mut Value, theirs: &mut Value, name: &str) -> Vec<Value> {
    let list = |of: &mut Value| match of.get_mut(name).map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let mut all = list(own);
    all.append(&mut list(theirs));
    all.retain(Value::is_object);
    all
}

/// One of all that have the same values of these fields, in the order of the first of each.
fn by(all: Vec<Value>, fields: &[&str], mut merge: impl FnMut(&mut Value, Value)) -> Value {
    let mut places = HashMap::new();
    let mut merged: Vec<Value> = Vec::new();
    for item in all {
        let key: Vec<_> = fields.iter().map(|field| item[*field].to_string()).collect();
        match places.get(&key) {
            Some(at) => merge(&mut merged[*at], item),
            None => {
                places.insert(key, merged.len());
                merged.push(item);
            }
        }
    }
    merged.into()
}

/// Summaries of traces, the youngest first; those of one trace are one.
fn traces(mut all: Vec<Value>, most: usize) -> Value {
    all.retain(Value::is_object);
    let mut merged = by(all, &["trace_id"], |mine, more| {
        let (start, end) = (begin_of(mine).min(begin_of(&more)), end_of(mine).max(end_of(&more)));
        if begin_of(&more) < begin_of(mine) {
            mine["first"] = more["first"].clone();
        }
        mine["start_unix_nanos"] = start.into();
        mine["duration_nanos"] = end.saturating_sub(start).into();
        for name in ["spans", "failures"] {
            mine[name] = json!(count(&mine[name]) + count(&more[name]));
        }
        if mine["root"].is_null() {
            mine["root"] = more["root"].clone();
        }
        let known = mine["services"].as_array().cloned().unwrap_or_default();
        let new = more["services"].as_array().into_iter().flatten().filter(|s| !known.contains(s));
        mine["services"] = known.iter().chain(new).cloned().collect();
    });
    if let Some(all) = merged.as_array_mut() {
        all.sort_by_key(|trace| std::cmp::Reverse(begin_of(trace)));
        all.truncate(most);
    }
    merged
}

fn begin_of(of: &Value) -> u64 {
    of["start_unix_nanos"].as_u64().unwrap_or(0)
}

fn end_of(of: &Value) -> u64 {
    begin_of(of).saturating_add(of["duration_nanos"].as_u64().unwrap_or(0))
}

/// The rows of several processes as the tree that they are: children behind their parents, by their beginning; those whose parents are nowhere stand at the left.
fn waterfall(rows: Vec<Value>) -> Vec<Value> {
    let mut seen = HashSet::new();
    let id = |row: &Value, field: &str| row["span"][field].as_str().map(str::to_owned);
    let mut rows: Vec<_> = rows
        .into_iter()
        .filter(|row| {
            row.is_object() && seen.insert((id(row, "span_id"), row["span"]["kind"].to_string()))
        })
        .collect();
    rows.sort_by_key(|row| begin_of(&row["span"]));
    let places: BTreeMap<_, _> =
        rows.iter().enumerate().filter_map(|(at, row)| Some((id(row, "span_id")?, at))).collect();
    let parent = |row: &Value| places.get(&id(row, "parent_id")?).copied();
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut next = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        match parent(row) {
            Some(parent) if parent != at => children.entry(parent).or_default().push(at),
            _ => next.push((at, 0)),
        }
    }
    next.reverse();
    let mut order = Vec::with_capacity(rows.len());
    while let Some((at, depth)) = next.pop() {
        order.push((at, depth));
        // Each is some one's child once, so that even a circle, which no root leads to, is not gone round.
        let below = children.remove(&at).unwrap_or_default();
        next.extend(below.into_iter().rev().map(|child| (child, depth + 1)));
    }
    let mut rows: Vec<_> = rows.into_iter().map(Some).collect();
    let in_order = order.into_iter().filter_map(|(at, depth)| {
        let mut row = rows[at].take()?;
        row["depth"] = depth.into();
        Some(row)
    });
    in_order.collect()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(of: Page, mut own: Value, theirs: Value) -> Value {
        page(of, &mut own, theirs);
        own
    }

    #[test]
    fn a_service_in_two_processes_is_one_with_the_instances_of_both() {
        let side = |id: &str, calls: u64, p99: f64| {
            json!({ "window_ms": 1_000.0, "left_out": 0, "gateways": [], "edges": [
                { "from": "edge", "to": "orders", "calls": calls, "errors": 1, "rate": 2.0, "p50_ms": 1.0, "p99_ms": p99, "retries": null },
            ], "services": [
                { "name": "orders", "active": 1, "traffic": { "calls": calls, "errors": 1, "rate": 2.5, "p50_ms": 1.0, "p99_ms": p99 }, "instances": [{ "id": id }, { "id": "both", "zone": null }] },
            ] })
        };
        let page = merged(Page::Map, side("a", 10, 5.0), side("b", 20, 3.0));
        let service = &page["services"][0];
        assert_eq!(page["services"].as_array().unwrap().len(), 1);
        let traffic =
            json!({ "calls": 30, "errors": 2, "rate": 5.0, "p50_ms": 1.0, "p99_ms": 5.0 });
        assert_eq!(service["traffic"], traffic);
        assert_eq!(service["active"], 2);
        let ids: Vec<_> =
            service["instances"].as_array().unwrap().iter().map(|i| &i["id"]).collect();
        assert_eq!(ids, ["a", "both", "b"]);
        assert_eq!((&page["edges"][0]["calls"], &page["edges"][1]), (&json!(30), &Value::Null));
    }

    #[test]
    fn a_page_that_is_absent_here_is_that_of_the_other() {
        let theirs =
            json!({ "counts": [{ "state": "stuck", "count": 2 }], "sagas": [{ "saga": "s" }] });
        let page = merged(Page::Sagas, json!({ "absent": true }), theirs.clone());
        assert_eq!(page["sagas"], theirs["sagas"]);
        assert_eq!(page["absent"], Value::Null);
        let both = merged(Page::Sagas, page, theirs.clone());
        assert_eq!(both["sagas"].as_array().unwrap().len(), 1, "one store, told of twice");
        assert_eq!(both["counts"], json!([{ "state": "stuck", "count": 2 }]));
        assert_eq!(merged(Page::Sagas, theirs.clone(), json!({ "absent": true })), theirs);
    }

    #[test]
    fn the_spans_of_a_trace_are_one_tree_whoever_tells_them() {
        let row = |id: &str, parent: Option<&str>, start: u64| json!({ "depth": 0, "name": id, "span": { "span_id": id, "parent_id": parent, "start_unix_nanos": start, "duration_nanos": 5, "kind": "server" } });
        let mut own = json!({ "trace_id": "t", "spans": [row("child", Some("root"), 20), row("lost", Some("gone"), 15)], "logs": [] });
        let theirs = json!({ "spans": [row("root", None, 10), row("late", Some("root"), 30), row("grandchild", Some("child"), 25)], "logs": [] });
        detail("traces", &mut own, theirs);
        arrange("traces", "t", &mut own);
        let tree: Vec<_> = own["spans"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| (r["name"].as_str().unwrap(), r["depth"].as_u64().unwrap()))
            .collect();
        assert_eq!(tree, [("root", 0), ("child", 1), ("grandchild", 2), ("late", 1), ("lost", 0)]);
    }

    #[test]
    fn summaries_of_one_trace_are_one_from_its_first_to_its_last_moment() {
        let one = json!({ "trace_id": "t", "root": null, "first": "SELECT", "services": ["a"], "start_unix_nanos": 20, "duration_nanos": 30, "spans": 2, "failures": 1 });
        let other = json!({ "trace_id": "t", "root": "GET /", "first": "GET /", "services": ["b", "a"], "start_unix_nanos": 10, "duration_nanos": 20, "spans": 3, "failures": 0 });
        let found = traces(vec![one, other], 10);
        let expected = json!([{ "trace_id": "t", "root": "GET /", "first": "GET /", "services": ["a", "b"], "start_unix_nanos": 10, "duration_nanos": 40, "spans": 5, "failures": 1 }]);
        assert_eq!(found, expected);
    }

    #[test]
    fn nonsense_of_another_process_breaks_no_page() {
        let nonsense = [
            json!(null),
            json!([1]),
            json!("x"),
            json!({ "services": [{ "name": "a", "traffic": 7, "instances": [7] }, 7], "edges": [{ "retries": 7 }, { "retries": 7 }], "newest": [1, null], "logs": [[]], "groups": {}, "sagas": [null, null], "counts": [{}] }),
        ];
        for (page, theirs) in
            Page::ALL.iter().flat_map(|(page, _)| nonsense.iter().map(|n| (*page, n)))
        {
            let own = json!({ "services": [{ "name": "a", "traffic": 3, "instances": [] }], "newest": [], "logs": [], "groups": [], "letters": [], "sagas": [], "counts": [], "stats": {} });
            let page_now = merged(page, own, theirs.clone());
            assert!(page_now.is_object());
        }
        for theirs in &nonsense {
            let mut own = json!({ "spans": [], "logs": [] });
            detail("traces", &mut own, theirs.clone());
            arrange("traces", "t", &mut own);
            let mut theirs = theirs.clone();
            detail("traces", &mut theirs, json!({ "spans": [1], "traces": [1] }));
            if theirs.is_object() {
                arrange("traces", "all", &mut theirs);
            }
        }
    }
}
