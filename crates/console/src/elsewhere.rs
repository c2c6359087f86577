use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use serde_json::{Value, json};

use crate::{Page, Sources, live::within, merge};

/// Another process, as a console of its own would show it: what the console does not see by itself.
///
/// It is asked for what stands in the table of the crate's documentation under `GET /api/…`, and may answer with less: fields that are missing are unknown. What it says is shown under
/// the name that it has here, beside the rest; services and edges of one name, traces and sagas of one id are made one.
pub trait Elsewhere: Send + Sync + 'static {
    /// The JSON of `/api/{path}`, in which ids are percent-encoded. `None`: it has nothing of that name.
    fn get<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<Value>, String>>;

    /// Carries out the order that `POST /api/{path}` would. As it stands it refuses.
    fn order<'a>(
        &'a self,
        _path: &'a str,
        _order: &'a Value,
    ) -> BoxFuture<'a, Result<Value, String>> {
        Box::pin(async { Err("nothing can be ordered there".to_owned()) })
    }
}

/// Between the name of a process and what is found there.
const OF: &str = " · ";

/// What is here, and what all others say to it.
pub(crate) async fn page(sources: &Sources, page: Page, mut own: Value) -> Value {
    let asked = sources.others.iter().map(|(name, other)| async move {
        let said = within(other.get(page.name())).await;
        (name, said)
    });
    let mut errors = Vec::new();
    for (name, said) in join_all(asked).await {
        match said {
            Ok(Some(mut theirs)) => {
                for (list, field) in named(page) {
                    each(&mut theirs, list, field, |what| {
                        format!("{name}{OF}{}", what.as_str().unwrap_or_default())
                    });
                }
                if page == Page::Broker {
                    let id = |id: &Value| id.as_str().map_or_else(|| id.to_string(), str::to_owned);
                    each(&mut theirs, "letters", "id", |letter| format!("{}@{name}", id(letter)));
                }
                if let Some(why) = theirs.get_mut("error").map(Value::take) {
                    errors.extend(why.as_str().map(|why| format!("{name}: {why}")));
                }
                merge::page(page, &mut own, theirs);
            }
            Ok(None) => {}
            Err(why) => errors.push(format!("{name}: {why}")),
        }
    }
    if !errors.is_empty() {
        errors.extend(own["error"].as_str().map(str::to_owned));
        own["error"] = errors.join("; ").into();
    }
    own
}

/// Changes this field of all objects in the list.
fn each(theirs: &mut Value, list: &str, field: &str, change: impl Fn(&Value) -> String) {
    let list = theirs.get_mut(list).and_then(Value::as_array_mut);
    for value in list.into_iter().flatten().filter_map(|item| item.get_mut(field)) {
        *value = change(value).into();
    }
}

/// Lists whose items are told apart by the process that they are of, and the fields that have its name in front.
const fn named(page: Page) -> &'static [(&'static str, &'static str)] {
    match page {
        Page::Breakers => &[("breakers", "group")],
        Page::Limits => &[("limits", "name")],
        Page::Broker => &[("groups", "group")],
        Page::Canary => &[("splits", "name")],
        Page::Switches => &[("switches", "group")],
        Page::Map => &[("gateways", "name")],
        Page::Traces | Page::Sagas => &[],
    }
}

/// What others know of it as well, or instead.
pub(crate) async fn detail(
    sources: &Sources,
    (kind, id): (&str, &str),
    own: Option<Value>,
) -> Result<Option<Value>, String> {
    if kind == "letters" {
        let Some((number, other)) = decoded(id).and_then(|id| {
            let (number, name) = id.rsplit_once('@')?;
            Some((encoded(number), other(sources, name)?))
        }) else {
            return Ok(own);
        };
        return within(other.get(&format!("letters/{number}"))).await;
    }
    if own.is_some() && kind == "sagas" {
        return Ok(own);
    }
    let path = format!("{kind}/{id}");
    let asked = sources.others.iter().map(|(_, other)| within(other.get(&path)));
    let (mut found, mut error) = (own, None);
    for said in join_all(asked).await {
        match said.map(|said| said.filter(Value::is_object)) {
            Ok(Some(theirs)) => match &mut found {
                Some(found) => merge::detail(kind, found, theirs),
                None => found = Some(theirs),
            },
            Ok(None) => {}
            Err(why) => error = Some(why),
        }
    }
    match (found, error) {
        (Some(mut found), _) => {
            merge::arrange(kind, id, &mut found);
            Ok(Some(found))
        }
        (None, Some(why)) => Err(why),
        (None, None) => Ok(None),
    }
}

/// What came of an order that is for another process; `None` if it is for this one.
pub(crate) async fn order(
    sources: &Sources,
    path: &str,
    order: &Value,
) -> Option<Result<Value, String>> {
    let what = path.strip_prefix("/api/").filter(|_| order.is_object())?;
    let addressed = |field: &str| {
        let (name, rest) = order[field].as_str()?.split_once(OF)?;
        Some((other(sources, name)?, rest.to_owned()))
    };
    let to_one = |field: &'static str, (other, rest): (Arc<dyn Elsewhere>, String)| {
        let mut order = order.clone();
        order[field] = rest.into();
        async move { other.order(what, &order).await }
    };
    match what {
        "breakers" => Some(to_one("group", addressed("group")?).await),
        "canary" => Some(to_one("split", addressed("split")?).await),
        "switches" => Some(to_one("group", addressed("group")?).await),
        "letters" => {
            if let Some(id) = order["id"].as_str() {
                let (id, name) = id.rsplit_once('@')?;
                let other = other(sources, name)?;
                let mut order = order.clone();
                // A number, unless it is of a process behind that one.
                order["id"] = id.parse::<u64>().map_or_else(|_| id.into(), Value::from);
                return Some(other.order(what, &order).await);
            }
            match addressed("group") {
                Some(addressed) => Some(to_one("group", addressed).await),
                None if sources.broker.is_none() => of_all(sources, what, order).await,
                None => None,
            }
        }
        "sagas" if sources.sagas.is_none() => {
            let path = format!("sagas/{}", encoded(order["saga"].as_str()?));
            for (_, other) in &sources.others {
                if let Ok(Some(_)) = within(other.get(&path)).await {
                    return Some(other.order(what, order).await);
                }
            }
            None
        }
        _ => None,
    }
}

/// Each that can does it; the sums of what they say.
async fn of_all(sources: &Sources, what: &str, order: &Value) -> Option<Result<Value, String>> {
    let mut sum = json!({});
    let mut last = None;
    for (name, other) in &sources.others {
        match other.order(what, order).await {
            Ok(done) => {
                merge::add(&mut sum, &done);
                last = Some(Ok(()));
            }
            Err(why) => last = last.or(Some(Err(format!("{name}: {why}")))),
        }
    }
    last.map(|done| done.map(|()| sum))
}

fn other(sources: &Sources, name: &str) -> Option<Arc<dyn Elsewhere>> {
    sources.others.iter().find(|(of, _)| **of == *name).map(|(_, other)| other.clone())
}

/// As a browser encodes what stands in a path.
pub(crate) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        if *first == b'%' {
            let (digits, behind) = behind.split_at_checked(2)?;
            let digit = |at: usize| char::from(digits[at]).to_digit(16);
            bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
            rest = behind;
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encoded, as it stands in a path or in a query.
#[must_use]
pub fn encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for text in ["7@left", "a b/c?%é", ""] {
            assert_eq!(decoded(&encoded(text)).as_deref(), Some(text));
        }
        for wrong in ["%", "%4", "%zz", "%ff", "%+1"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }
}
