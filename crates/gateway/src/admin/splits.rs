//! Splits as operators see and change them.

use std::{collections::HashSet, fmt::Write as _};

use http::StatusCode;
use serde_json::{Value, json};

use super::pages::millis;
use crate::{Gateway, RolloutState, RolloutStatus, Split};

/// Why an order cannot be followed.
pub(super) type Refusal = (StatusCode, String);

/// What an operator may say of a split.
const ORDERS: &str = "orders are weights, promote, abort and revert";

/// All of them, in the order of the routes.
pub(super) fn page(gateway: &Gateway) -> Value {
    let shown = |(name, split): (String, Split)| {
        let mut shown = state(&split);
        shown["route"] = name.as_str().into();
        shown["at"] = format!("/splits/{}", encoded(name.trim_start_matches('/'))).into();
        shown
    };
    Value::Array(named(gateway).into_iter().map(shown).collect())
}

/// Does what an operator says; shows what came of it.
pub(super) fn order(
    gateway: &Gateway,
    name: &str,
    order: &str,
    query: &str,
) -> Result<Value, Refusal> {
    let name = decoded(name).ok_or_else(|| unfit("the name of the route is not well encoded"))?;
    let split = named(gateway).into_iter().find(|(of, _)| of.trim_start_matches('/') == name);
    let no_split =
        || (StatusCode::NOT_FOUND, "there is no split of this name; see GET /splits".into());
    let (route, split) = split.ok_or_else(no_split)?;
    let said = said(query)?;
    match order {
        "weights" => weights(&split, &said)?,
        "promote" => promote(&split, &said)?,
        "abort" if split.abort() => {}
        "abort" => {
            let reason = "no rollout is under way; revert goes back to the weights of before";
            return Err((StatusCode::CONFLICT, reason.into()));
        }
        "revert" => split.revert(),
        _ => return Err((StatusCode::NOT_FOUND, ORDERS.into())),
    }
    tracing::warn!(route, order, query, "an operator has changed a split");
    Ok(state(&split))
}

/// The splits by the names of their routes, or else by hosts and paths. Of several with the same, those behind the first have a number.
fn named(gateway: &Gateway) -> Vec<(String, Split)> {
    let mut names = HashSet::new();
    let splits = gateway.targets().iter().filter_map(|target| {
        let at = || format!("{}{}", target.host.as_deref().unwrap_or_default(), target.path);
        let name = target.named.as_ref().map_or_else(at, ToString::to_string);
        let numbers = std::iter::successors(Some(2), |number| Some(number + 1));
        let others = numbers.map(|number: u32| format!("{name}~{number}"));
        let split = target.split.clone()?;
        // As an address has them: a host at the begin of one is a segment at the begin of another.
        let mut free = std::iter::once(name.clone()).chain(others);
        let free = free.find(|name| names.insert(name.trim_start_matches('/').to_owned()))?;
        Some((free, split))
    });
    splits.collect()
}

fn weights(split: &Split, said: &[(String, String)]) -> Result<(), Refusal> {
    let weight = |(name, text): &(String, String)| match text.parse::<u32>() {
        Ok(weight) => Ok((name.clone(), weight)),
        Err(_) => Err(unfit(&format!("{text:?} is no weight; write a whole number, 0 or more"))),
    };
    let weights = said.iter().map(weight).collect::<Result<Vec<_>, _>>()?;
    if weights.is_empty() {
        return Err(unfit("write the weights as the query: ?stable=90&next=10"));
    }
    let weights: Vec<_> = weights.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
    split.set_weights(&weights).map_err(|error| unfit(&error.to_string()))
}

/// All requests go to one variant: that of the rollout, or the one that is said.
fn promote(split: &Split, said: &[(String, String)]) -> Result<(), Refusal> {
    let variant = match said {
        [] => split.rollout().map(|rollout| rollout.variant.to_string()),
        [(name, variant)] if name == "variant" => Some(variant.clone()),
        _ => return Err(unfit("one thing can be said: ?variant=next")),
    };
    let none = || unfit("there is no rollout, so say which variant: ?variant=next");
    split.switch_to(&variant.ok_or_else(none)?).map_err(|error| unfit(&error.to_string()))
}

fn state(split: &Split) -> Value {
    let variants = split.stats().into_iter().map(|variant| {
        json!({
            "name": &*variant.name,
            "to": variant.upstream.to_string(),
            "weight": variant.weight,
            "calls": variant.calls,
            "failures": variant.failures,
            "p95_ms": millis(variant.p95),
        })
    });
    json!({ "variants": variants.collect::<Vec<_>>(), "rollout": split.rollout().as_ref().map(rollout) })
}

fn rollout(status: &RolloutStatus) -> Value {
    let (state, reason) = match &status.state {
        RolloutState::Running => ("running", None),
        RolloutState::Done => ("done", None),
        RolloutState::Aborted(reason) => ("aborted", Some(reason.to_string())),
    };
    json!({
        "variant": &*status.variant,
        "percent": status.percent,
        "state": state,
        "reason": reason,
        "calls": status.calls,
        "failures": status.failures,
    })
}

fn unfit(reason: &str) -> Refusal {
    (StatusCode::UNPROCESSABLE_ENTITY, reason.to_owned())
}

/// The parameters of a query, each of which may be there once.
fn said(query: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut said: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (decoded(name), decoded(value)) else {
            return Err(unfit("the query is not well encoded"));
        };
        if said.iter().any(|(other, _)| *other == name) {
            return Err(unfit(&format!("{name:?} is said twice")));
        }
        said.push((name, value));
    }
    Ok(said)
}

/// `None` where a percent sign does not begin an octet, or the octets are no text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let octet = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(octet).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// As it stands in an address. Shells and their clients take braces for something else.
fn encoded(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            // Nothing fails that writes to a text.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_routes_stand_in_addresses_and_come_back() {
        for name in ["shop.example/a/{*rest}", "a b/%41/ü", "", "/"] {
            assert_eq!(decoded(&encoded(name)).as_deref(), Some(name));
        }
        assert_eq!(encoded("a/{*rest}"), "a/%7B%2Arest%7D");
        for wrong in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
        let twice = said("a=1&a=2").map_err(|(_, reason)| reason);
        assert_eq!(twice, Err("\"a\" is said twice".into()));
    }
}
