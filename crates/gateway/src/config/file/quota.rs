//! What clients may, and what they may send twice.

use std::{num::NonZeroU32, time::Duration};

use http::HeaderName;
use serde_json::{Value as Json, json};

use crate::config::{Fields, Place, Schema, Section, Setting, Size, Value, units::Rate};

/// How much each client may.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct QuotaSection {
    pub(in crate::config) rate: Rate,
    pub(in crate::config) burst: Option<NonZeroU32>,
    pub(in crate::config) by: QuotaBy,
    pub(in crate::config) shared: bool,
    pub(in crate::config) place: Place,
}

impl Section for QuotaSection {
    const NAME: &'static str = "quota";
    const ABOUT: &'static str = "How much each client may on this route; above that it gets 429.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let rate = fields.required("rate", "So many requests in each period: 100/s, 100/m, 1/10s.");
        let burst = fields.optional(
            "burst",
            "How many may come at once after a pause. Default those of a period.",
        );
        let by = fields.optional("by", "Who is a client: client (the subject if it is known, else the address), subject, address, all (together), or header: and the name of a field. Default client.");
        let by = by.unwrap_or(QuotaBy::Client);
        let shared = fields.flag(
            "shared",
            "All gateways with the same [redis] count together. Default no: each by itself.",
        );
        let place = fields.place(if shared { "shared" } else { "rate" });
        Some(Self { rate: rate?, burst, by, shared, place })
    }
}

/// By what clients are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum QuotaBy {
    Client,
    Subject,
    Address,
    All,
    Header(HeaderName),
}

const BY: [(&str, QuotaBy); 4] = [
    ("client", QuotaBy::Client),
    ("subject", QuotaBy::Subject),
    ("address", QuotaBy::Address),
    ("all", QuotaBy::All),
];

impl Setting for QuotaBy {
    fn read(value: &Value<'_>) -> Option<Self> {
        const WHAT: &str = "way to tell clients apart; write \"client\", \"subject\", \"address\", \"all\" or \"header:x-tenant\"";
        let text = value.text(WHAT)?;
        if let Some((_, by)) = BY.iter().find(|(name, _)| *name == text) {
            return Some(by.clone());
        }
        let header = text.strip_prefix("header:").and_then(|name| name.parse().ok());
        header.map_or_else(|| value.no(WHAT), |name| Some(Self::Header(name)))
    }

    fn describe(_: &mut Schema) -> Json {
        json!({ "anyOf": [
            Schema::choice(&["client", "subject", "address", "all"]),
            Schema::text("header:.+", &["header:x-tenant"]),
        ] })
    }
}

/// What `Idempotency-Key` means.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct IdempotencySection {
    pub(in crate::config) required: bool,
    pub(in crate::config) keep: Option<Duration>,
    pub(in crate::config) max_body: Option<Size>,
    pub(in crate::config) keep_server_errors: bool,
    pub(in crate::config) shared: bool,
    pub(in crate::config) place: Place,
}

impl Section for IdempotencySection {
    const NAME: &'static str = "idempotency";
    const ABOUT: &'static str =
        "A request with an Idempotency-Key has one effect, and its answer is kept.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            required: fields
                .flag("required", "Requests without a key are answered with 400. Default no."),
            keep: fields.optional("keep", "How long an answer is kept. Default 24h."),
            max_body: fields
                .optional("max_body", "How large an answer may be to be kept. Default 64KiB."),
            keep_server_errors: fields
                .flag("keep_server_errors", "Answers of 5xx are kept as well. Default no."),
            shared: fields.flag(
                "shared",
                "Answers are kept in [redis], for all gateways with the same one. Default no: in memory, as long as the gateway runs.",
            ),
            place: fields.place("shared"),
        })
    }
}
