use std::num::NonZeroU32;

use serde_json::Value as Json;

use crate::config::{Fields, Place, Placed, Schema, Secret, Section, Setting, Span, Value};

/// A Redis server that gateways share.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct RedisSection {
    pub(in crate::config) url: Placed<Address>,
    pub(in crate::config) name: Option<String>,
    pub(in crate::config) away: Away,
    pub(in crate::config) gateways: Option<NonZeroU32>,
    pub(in crate::config) wait: Option<Span>,
    pub(in crate::config) place: Place,
}

impl Section for RedisSection {
    const NAME: &'static str = "redis";
    const ABOUT: &'static str = "A Redis server by which several gateways have quotas and answers for Idempotency-Key together, where these say shared = true.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let url = fields.required(
            "url",
            "redis://127.0.0.1:6379/0, or redis+unix:///run/redis.sock; with a password a secret.",
        );
        let name = fields.optional("name", "Gateways of the same name share. Default gateway.");
        let away = fields.optional(
            "away",
            "Who decides about quotas while it does not answer: local (each gateway for itself), open (nobody, all pass), closed (nobody passes: 503). Default local.",
        );
        let gateways = fields.optional(
            "gateways",
            "How many gateways share; while it does not answer, each gives its part of the quotas. Default 1.",
        );
        let wait = fields.optional("wait", "How long a request waits for its quota. Default 20ms.");
        let away = away.unwrap_or(Away::Local);
        if fields.has("gateways") && away != Away::Local {
            fields.wrong("gateways", "it is for away = \"local\"");
        }
        Some(Self { url: url?, name, away, gateways, wait, place: fields.place("url") })
    }
}

/// Who decides meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Away {
    Local,
    Open,
    Closed,
}

const AWAYS: [(&str, Away); 3] =
    [("local", Away::Local), ("open", Away::Open), ("closed", Away::Closed)];

impl Setting for Away {
    fn read(value: &Value<'_>) -> Option<Self> {
        value.one_of(&AWAYS)
    }

    fn describe(_: &mut Schema) -> Json {
        Schema::choice(&AWAYS.map(|(name, _)| name))
    }
}

/// Where it is. One with a password is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Address(pub(in crate::config) Secret);

impl Setting for Address {
    fn read(value: &Value<'_>) -> Option<Self> {
        if value.is_table() {
            return Secret::read(value).map(Self);
        }
        let text = value.text("address; write \"redis://127.0.0.1:6379\"")?;
        if text.contains('@') {
            // What stands there may be the secret.
            value.tell(value.place().error("a password does not stand in the file; write { env = \"REDIS_URL\" }, or { file = … }"));
            return None;
        }
        Some(Self(Secret::plain(text)))
    }

    fn describe(schema: &mut Schema) -> Json {
        let plain = serde_json::json!({ "type": "string", "examples": ["redis://127.0.0.1:6379"] });
        serde_json::json!({ "anyOf": [plain, Secret::describe(schema)] })
    }
}
