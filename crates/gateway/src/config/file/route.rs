use std::{num::NonZeroU32, time::Duration};

use http::{HeaderName, Method};
use serde_json::{Value as Json, json};

use super::{
    AnswerSection, ConditionSection, CorsSection, EditsSection, FanOutSection, GrpcOf, GrpcSection,
    RedirectSection, RetrySection, TrafficFields, VariantSection, shared,
};
use crate::config::{
    Fields, Place, Placed, Schema, Section, Setting, Size, Span, Value, units::Rate,
};

/// Which requests go where, and under which conditions.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct RouteSection {
    /// `None` where the annotations of a service say it.
    pub(in crate::config) path: Option<Placed<String>>,
    pub(in crate::config) host: Option<String>,
    pub(in crate::config) methods: Option<Vec<Method>>,
    pub(in crate::config) when: Vec<ConditionSection>,
    pub(in crate::config) rank: Option<i32>,
    pub(in crate::config) leads: Leads,
    pub(in crate::config) grpc: Option<GrpcSection>,
    pub(in crate::config) traffic: TrafficFields,
    pub(in crate::config) host_header: Option<String>,
    pub(in crate::config) request_headers: Option<EditsSection>,
    pub(in crate::config) answer_headers: Option<EditsSection>,
    pub(in crate::config) strip_prefix: Option<String>,
    pub(in crate::config) rewrite: Option<String>,
    pub(in crate::config) quota: Option<QuotaSection>,
    pub(in crate::config) timeout: Option<Span>,
    pub(in crate::config) body_limit: Option<Size>,
    pub(in crate::config) sender: SenderFields,
    pub(in crate::config) cors: Option<CorsSection>,
    pub(in crate::config) upgrades: Vec<String>,
    pub(in crate::config) idempotency: Option<IdempotencySection>,
    pub(in crate::config) retry: Option<RetrySection>,
    pub(in crate::config) place: Place,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum Leads {
    To(Placed<String>),
    Split(Placed<Vec<VariantSection>>),
    FanOut(FanOutSection),
    Redirect(RedirectSection),
    Answer(AnswerSection),
}

impl Leads {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let to = fields.optional("to", "The upstream, by its name here.");
        let split = fields.optional("split", "Several upstreams, by weight.");
        let fan_out = fields.optional("fan_out", "One request becomes several at once.");
        let redirect = fields.optional("redirect", "Clients are sent elsewhere.");
        let answer = fields.optional("answer", "The gateway answers itself.");
        fields.one_of(&["to", "split", "fan_out", "redirect", "answer"]);
        to.map(Self::To)
            .or(split.map(Self::Split))
            .or(fan_out.map(Self::FanOut))
            .or(redirect.map(Self::Redirect))
            .or(answer.map(Self::Answer))
    }
}

/// What a route asks of its senders.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::config) struct SenderFields {
    pub(in crate::config) authenticated: bool,
    pub(in crate::config) scopes: Vec<String>,
    pub(in crate::config) any_scope: Option<Vec<String>>,
    pub(in crate::config) roles: Vec<String>,
    pub(in crate::config) any_role: Option<Vec<String>>,
    pub(in crate::config) keep_credentials: bool,
}

impl SenderFields {
    /// Whether senders must be known.
    pub(in crate::config) fn asks(&self) -> bool {
        self.authenticated
            || !self.scopes.is_empty()
            || self.any_scope.is_some()
            || !self.roles.is_empty()
            || self.any_role.is_some()
    }

    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            authenticated: fields
                .flag("authenticated", "Only requests of a known sender. Default no."),
            scopes: fields.list("scopes", "Only senders with all of these scopes."),
            any_scope: fields.optional("any_scope", "Only senders with one of these scopes."),
            roles: fields.list("roles", "Only senders with all of these roles."),
            any_role: fields.optional("any_role", "Only senders with one of these roles."),
            keep_credentials: fields
                .flag("keep_credentials", "Credentials go on to the upstream. Default no."),
        }
    }
}

impl Section for RouteSection {
    const NAME: &'static str = "route";
    const ABOUT: &'static str = "Which requests go where, and under which conditions.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let path = fields.optional(
            "path",
            "Literal segments, {name} for one segment, {*name} at the end for the rest. Needed, but where grpc has a service.",
        );
        let host = fields.optional("host", "Only requests for this host. Default every host.");
        let methods = fields.optional(
            "methods",
            "Only these; GET stands for HEAD as well. Default all but CONNECT and TRACE.",
        );
        let when = fields.list("when", "What a request must say besides. Default nothing.");
        let rank = fields.optional(
            "rank",
            "Of two routes that fit alike, the one with the higher rank goes first. Default 0.",
        );
        let leads = Leads::read(fields);
        let grpc =
            fields.optional("grpc", "Clients that send JSON ask a service that speaks gRPC.");
        let traffic = TrafficFields::read(fields);
        let host_header = fields
            .optional("host_header", "What the upstream sees as Host. Default the instance's own.");
        let request_headers =
            fields.optional("request_headers", "What is changed in the head of requests.");
        let answer_headers =
            fields.optional("answer_headers", "What is changed in the head of answers.");
        let strip_prefix =
            fields.optional("strip_prefix", "The upstream sees the path without it.");
        let rewrite =
            fields.optional("rewrite", "The upstream sees this path; {name} is that of the path.");
        if fields.has("strip_prefix") && fields.has("rewrite") {
            fields.wrong("rewrite", "strip_prefix is there already; only one of them can be");
        }
        let quota = fields.optional("quota", "How much each client may. Default no limit.");
        let timeout = fields.optional("timeout", shared::TIMEOUT);
        let body_limit = fields.optional("body_limit", shared::BODY_LIMIT);
        let sender = SenderFields::read(fields);
        let cors = fields
            .optional("cors", "Which web pages may read its answers. Default that of defaults.");
        let upgrades = fields.list(
            "upgrades",
            "Protocols that may be spoken instead of HTTP, such as websocket. Default none.",
        );
        let idempotency =
            fields.optional("idempotency", "What Idempotency-Key means here. Default nothing.");
        let retry = fields
            .optional("retry", "When requests are tried again. Default that of the upstream.");
        agree(fields, grpc.as_ref());
        if let Some(QuotaSection { by: QuotaBy::Subject, .. }) = &quota {
            if !sender.asks() {
                fields.wrong("quota", "nobody is known on this route; add authenticated = true, or write by = \"client\"");
            }
        }
        Some(Self {
            path,
            host,
            methods,
            when,
            rank,
            leads: leads?,
            grpc,
            traffic,
            host_header,
            request_headers,
            answer_headers,
            strip_prefix,
            rewrite,
            quota,
            timeout,
            body_limit,
            sender,
            cors,
            upgrades,
            idempotency,
            retry,
            place: fields.place(""),
        })
    }
}

/// What stands in the way of one another.
fn agree(fields: &Fields<'_>, grpc: Option<&GrpcSection>) {
    let by_service = matches!(grpc, Some(GrpcSection { of: GrpcOf::Service(_), .. }));
    // Of a section that is wrong nothing is known.
    if !fields.has("path") && (grpc.is_some() || !fields.has("grpc")) && !by_service {
        fields.missing("path");
    }
    for name in ["path", "methods"] {
        if by_service && fields.has(name) {
            fields.wrong(name, "the annotations of the service say it; leave it out");
        }
    }
    if fields.has("grpc") && !fields.has("to") && !fields.has("split") {
        fields.wrong("grpc", "it is of an upstream; add to, or split");
    }
}

/// How much each client may.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct QuotaSection {
    pub(in crate::config) rate: Rate,
    pub(in crate::config) burst: Option<NonZeroU32>,
    pub(in crate::config) by: QuotaBy,
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
        Some(Self { rate: rate?, burst, by, place: fields.place("rate") })
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
}

impl Section for IdempotencySection {
    const NAME: &'static str = "idempotency";
    const ABOUT: &'static str =
        "A request with an Idempotency-Key has one effect. Answers are kept in memory.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            required: fields
                .flag("required", "Requests without a key are answered with 400. Default no."),
            keep: fields.optional("keep", "How long an answer is kept. Default 24h."),
            max_body: fields
                .optional("max_body", "How large an answer may be to be kept. Default 64KiB."),
            keep_server_errors: fields
                .flag("keep_server_errors", "Answers of 5xx are kept as well. Default no."),
        })
    }
}
