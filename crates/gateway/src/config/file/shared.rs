//! What routes and upstreams say for themselves, or for all.

use std::{num::NonZeroU32, time::Duration};

use gusset_registry::{LeastLoaded, Random, RoundRobin, WeightedRoundRobin};
use http::HeaderName;
use serde_json::{Value as Json, json};

use super::ShedSection;
use crate::Picker;
use crate::config::{Fields, OneOrMore, Place, Schema, Section, Setting, Size, Span, Value};

/// What holds unless somebody says otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::config) struct DefaultsSection {
    pub(in crate::config) timeout: Option<Span>,
    pub(in crate::config) body_limit: Option<Size>,
    pub(in crate::config) cors: Option<CorsSection>,
    pub(in crate::config) retry: Option<RetrySection>,
    pub(in crate::config) breaker: Option<BreakerSection>,
    pub(in crate::config) pick: Option<Pick>,
    pub(in crate::config) zone: Option<String>,
    pub(in crate::config) shed: Option<ShedSection>,
}

impl Section for DefaultsSection {
    const NAME: &'static str = "defaults";
    const ABOUT: &'static str =
        "What holds for all routes and upstreams that do not say otherwise.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            timeout: fields.optional("timeout", TIMEOUT),
            body_limit: fields.optional("body_limit", BODY_LIMIT),
            cors: fields
                .optional("cors", "Which web pages may read answers. Default: what upstreams say."),
            retry: fields.optional("retry", "When requests are tried again."),
            breaker: fields.optional("breaker", "When an instance is left alone."),
            pick: fields.optional("pick", "Which instance takes a request: least-loaded, peak-ewma, round-robin, weighted, random, or the same for the same header:NAME or cookie:NAME. Default least-loaded."),
            zone: fields.optional("zone", ZONE),
            shed: fields.optional(
                "shed",
                "How many requests may wait for upstreams at once, over all routes. Default no limit.",
            ),
        })
    }
}

pub(super) const ZONE: &str = "Instances of this zone take all requests while 70 % of them are healthy; with fewer, the missing part goes to the others. Default: zones do not matter.";
pub(super) const TIMEOUT: &str =
    "How long the upstream may take to the head of its answer, all attempts together. Default 10s.";
pub(super) const BODY_LIMIT: &str = "How large the body of a request may be. Default 2MiB.";

/// Which web pages may read answers.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct CorsSection {
    pub(in crate::config) origins: Vec<String>,
    pub(in crate::config) headers: Option<Vec<HeaderName>>,
    pub(in crate::config) expose: Vec<HeaderName>,
    pub(in crate::config) credentials: bool,
    pub(in crate::config) private_network: bool,
    pub(in crate::config) max_age: Option<Duration>,
    pub(in crate::config) place: Place,
}

impl Section for CorsSection {
    const NAME: &'static str = "cors";
    const ABOUT: &'static str = "Which web pages may read answers (CORS).";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let origins = fields.required::<OneOrMore<_>>(
            "origins",
            "https://shop.example, https://*.shop.example for the hosts below, or * for all pages.",
        );
        let headers = fields.optional(
            "headers",
            "Fields that pages may set. Default Authorization, Content-Type and Idempotency-Key.",
        );
        let expose = fields.list("expose", "Fields of answers that pages may read. Default none.");
        let credentials = fields.flag("credentials", "Pages may send cookies along. Default no.");
        let private_network = fields.flag(
            "private_network",
            "Pages of the internet may ask a gateway in a private network. Default no.",
        );
        let max_age = fields.optional("max_age", "How long browsers keep it. Default 10m.");
        let place = fields.place("origins");
        let origins = origins?.0;
        Some(Self { origins, headers, expose, credentials, private_network, max_age, place })
    }
}

/// When requests are tried again.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct RetrySection {
    pub(in crate::config) retries: Option<u32>,
    pub(in crate::config) backoff: Option<Span>,
    pub(in crate::config) longest_backoff: Option<Span>,
    pub(in crate::config) attempt_timeout: Option<Span>,
    pub(in crate::config) body_limit: Option<Size>,
}

impl Section for RetrySection {
    const NAME: &'static str = "retry";
    const ABOUT: &'static str = "When requests are tried again: only those that may, out of a budget of a fifth of the requests.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let retries = fields.optional("retries", "After the first attempt, up to 10. Default 2.");
        if retries.is_some_and(|retries: u32| retries > 10) {
            fields.wrong("retries", "more than 10 only add to the load; write 2");
        }
        Some(Self {
            retries,
            backoff: fields
                .optional("backoff", "The longest first wait; it doubles. Default 25ms."),
            longest_backoff: fields.optional("longest_backoff", "The longest wait. Default 1s."),
            attempt_timeout: fields
                .optional("attempt_timeout", "How long an attempt may take. Default: the timeout."),
            body_limit: fields
                .optional("body_limit", "The longest body that is kept for it. Default 64KiB."),
        })
    }
}

/// When an instance is left alone.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct BreakerSection {
    pub(in crate::config) failures_in_a_row: Option<NonZeroU32>,
    pub(in crate::config) failure_percent: Option<u8>,
    pub(in crate::config) window: Option<Span>,
    pub(in crate::config) min_calls: Option<NonZeroU32>,
    pub(in crate::config) open: Option<Span>,
}

impl Section for BreakerSection {
    const NAME: &'static str = "breaker";
    const ABOUT: &'static str = "When an instance is left alone for a while.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let failures_in_a_row = fields.optional(
            "failures_in_a_row",
            "After so many failures without a success, the first of which was 20 ms ago or more. Default 5, unless failure_percent is there.",
        );
        let failure_percent = fields.optional(
            "failure_percent",
            "When so many of a hundred requests within the window failed, 1 to 100. Default: it does not matter.",
        );
        if failure_percent.is_some_and(|percent: u8| !(1..=100).contains(&percent)) {
            fields.wrong("failure_percent", "it is a number from 1 to 100");
        }
        let window = fields.optional("window", "The time that failure_percent is of. Default 10s.");
        let min_calls = fields
            .optional("min_calls", "With fewer requests in it nothing is judged. Default 20.");
        for name in ["window", "min_calls"] {
            if fields.has(name) && !fields.has("failure_percent") {
                fields.wrong(name, "it is for failure_percent, which is not there");
            }
        }
        let open = fields.optional(
            "open",
            "For how long the first time; each time in a row it is twice that, up to 30s, or 60s with failure_percent. Default 1s; with failure_percent 5s.",
        );
        Some(Self { failures_in_a_row, failure_percent, window, min_calls, open })
    }
}

/// How instances are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum Pick {
    LeastLoaded,
    PeakEwma,
    RoundRobin,
    Weighted,
    Random,
    /// The same instance for the same field.
    ByHeader(HeaderName),
    /// The same instance for the same cookie.
    ByCookie(String),
}

const PICKS: [(&str, Pick); 5] = [
    ("least-loaded", Pick::LeastLoaded),
    ("peak-ewma", Pick::PeakEwma),
    ("round-robin", Pick::RoundRobin),
    ("weighted", Pick::Weighted),
    ("random", Pick::Random),
];

impl Pick {
    pub(in crate::config) fn picker(&self) -> Picker {
        match self {
            Self::LeastLoaded => LeastLoaded::new().into(),
            // A slow call is forgotten by two thirds after this time.
            Self::PeakEwma => LeastLoaded::peak_ewma(Duration::from_secs(10)).into(),
            Self::RoundRobin => RoundRobin.into(),
            Self::Weighted => WeightedRoundRobin.into(),
            Self::Random => Random.into(),
            Self::ByHeader(name) => Picker::by_header(name.clone()),
            Self::ByCookie(name) => Picker::by_cookie(name),
        }
    }
}

impl Setting for Pick {
    fn read(value: &Value<'_>) -> Option<Self> {
        const WHAT: &str = "way to pick; write \"least-loaded\", \"peak-ewma\", \"round-robin\", \"weighted\", \"random\", \"header:x-tenant\" or \"cookie:session\"";
        let text = value.text(WHAT)?;
        if let Some((_, pick)) = PICKS.iter().find(|(name, _)| *name == text) {
            return Some(pick.clone());
        }
        let header = text.strip_prefix("header:").and_then(|name| name.parse().ok());
        let cookie = text.strip_prefix("cookie:").filter(|name| !name.is_empty());
        let pick = header.map(Self::ByHeader).or(cookie.map(|name| Self::ByCookie(name.into())));
        pick.or_else(|| value.no(WHAT))
    }

    fn describe(_: &mut Schema) -> Json {
        let names: Vec<_> = PICKS.iter().map(|(name, _)| *name).collect();
        json!({ "anyOf": [
            Schema::choice(&names),
            Schema::text("(header|cookie):.+", &["header:x-tenant", "cookie:session"]),
        ] })
    }
}
