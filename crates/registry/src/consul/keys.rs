//! `/v1/kv`.

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::{
    answer::{Answer, Failure},
    blocking::Subject,
    kv::{Full, Wanted, Write},
    render,
    request::Call,
    server::{ConsulServer, State},
};

const LONGEST_KEY: usize = 512;

impl ConsulServer {
    pub(super) async fn kv(&self, call: &Call) -> Result<Answer, Failure> {
        if call.name.len() > LONGEST_KEY {
            return Err(Failure::bad(format!("Key is longer than {LONGEST_KEY} bytes")));
        }
        if call.method == Method::PUT {
            self.put(call).await
        } else if call.method == Method::DELETE {
            self.delete(call).await
        } else {
            self.get(call).await
        }
    }

    async fn put(&self, call: &Call) -> Result<Answer, Failure> {
        if call.name.is_empty() {
            return Err(Failure::bad("Missing key name"));
        }
        if call.query.get("acquire").or_else(|| call.query.get("release")).is_some() {
            return Err(Failure::bad("sessions and locks are not served here"));
        }
        let (flags, cas) = (call.query.number("flags")?, call.query.number("cas")?);
        // A copy: the body may be a slice of a much larger buffer, which would stay as long as the value.
        let value = Bytes::copy_from_slice(&call.body);
        let (key, flags) = (call.name.as_str().into(), flags.unwrap_or(0));
        self.write(Write::Put { key, value, flags, cas }).await
    }

    async fn delete(&self, call: &Call) -> Result<Answer, Failure> {
        let cas = call.query.number("cas")?;
        let recurse = call.query.has("recurse");
        if recurse && cas.is_some() {
            return Err(Failure::bad("cas and recurse exclude each other"));
        }
        if !recurse && call.name.is_empty() {
            return Err(Failure::bad("Missing key name"));
        }
        let key = call.name.as_str().into();
        self.write(if recurse { Write::DeleteUnder(key) } else { Write::Delete { key, cas } }).await
    }

    /// Is ready once it is done, and durable if it is to be.
    async fn write(&self, write: Write) -> Result<Answer, Failure> {
        #[cfg(feature = "file")]
        if let Some(queue) = self.kv_queue() {
            return Ok(Answer::json(queue.write(write).await?));
        }
        let done = self.change(|State { kv, indexes, .. }, _| kv.write(indexes, write));
        Ok(Answer::json(done?))
    }

    async fn get(&self, call: &Call) -> Result<Answer, Failure> {
        let (keys, recurse) = (call.query.has("keys"), call.query.has("recurse"));
        let name = call.name.as_str().into();
        if !keys && !recurse && call.name.is_empty() {
            return Err(Failure::bad("Missing key name"));
        }
        let wanted = if keys || recurse { Wanted::Prefix(name) } else { Wanted::Key(name) };
        let subject = Subject::Kv(wanted);
        self.block(&call.query, &subject).await?;
        let Subject::Kv(wanted) = subject else { return Ok(Answer::not_found()) };
        let (pairs, index) = self.read(|State { kv, .. }, _| {
            let pairs: Vec<_> = match &wanted {
                Wanted::Prefix(prefix) => kv.under(prefix).cloned().collect(),
                Wanted::Key(key) => kv.get(key).cloned().into_iter().collect(),
            };
            (pairs, kv.index(&wanted))
        });
        let Some(first) = pairs.first() else { return Ok(Answer::not_found().at(index)) };
        if keys {
            let separator = call.query.get("separator").unwrap_or_default();
            let keys = pairs.iter().map(|pair| &*pair.key);
            return Ok(Answer::json(level(keys, &call.name, separator)).at(index));
        }
        if call.query.has("raw") {
            return Ok(Answer::raw(first.value.clone()).at(index));
        }
        let shown: Vec<_> = pairs.iter().map(|pair| render::pair(pair)).collect();
        Ok(Answer::json(shown).at(index))
    }
}

impl From<Full> for Failure {
    fn from(Full: Full) -> Self {
        Self::full("this key-value store is full")
    }
}

/// The keys, each cut off behind the first separator after the prefix, once.
fn level<'a>(keys: impl Iterator<Item = &'a str>, prefix: &str, separator: &str) -> Vec<Value> {
    let mut level: Vec<&str> = keys
        .map(|key| {
            let rest = key.get(prefix.len()..).filter(|_| !separator.is_empty());
            let cut = rest.and_then(|rest| rest.find(separator));
            cut.map_or(key, |cut| &key[..prefix.len() + cut + separator.len()])
        })
        .collect();
    level.dedup();
    level.into_iter().map(Value::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_listed_level_by_level() {
        let keys = ["a/b", "a/c/d", "a/c/e", "ab"];
        let listed = |prefix, separator| {
            let keys = keys.into_iter().filter(move |key| key.starts_with(prefix));
            level(keys, prefix, separator)
        };
        assert_eq!(listed("", ""), keys);
        assert_eq!(listed("", "/"), ["a/", "ab"]);
        assert_eq!(listed("a/", "/"), ["a/b", "a/c/"]);
    }
}
