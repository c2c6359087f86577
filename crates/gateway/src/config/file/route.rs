use http::Method;

use super::{
    AnswerSection, ConditionSection, CorsSection, EditsSection, FanOutSection, GrpcOf, GrpcSection,
    IdempotencySection, QuotaBy, QuotaSection, RedirectSection, RetrySection, SplitField,
    TrafficFields, shared,
};
use crate::config::{Fields, Place, Placed, Section, Size, Span};

/// Which requests go where, and under which conditions.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct RouteSection {
    pub(in crate::config) name: Option<Placed<String>>,
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
    pub(in crate::config) grpc_web: bool,
    pub(in crate::config) idempotency: Option<IdempotencySection>,
    pub(in crate::config) retry: Option<RetrySection>,
    pub(in crate::config) place: Place,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum Leads {
    To(Placed<String>),
    Split(SplitField),
    FanOut(FanOutSection),
    Redirect(RedirectSection),
    Answer(AnswerSection),
}

impl Leads {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let to = fields.optional("to", "The upstream, by its name here.");
        let split =
            fields.optional("split", "Several upstreams by weight, or the name of one of splits.");
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
        let name = fields.optional(
            "name",
            "What it is called in metrics, traces and the log, and by operators. Default its path.",
        );
        let path = fields.optional(
            "path",
            "Literal segments, {name} for one segment, {*name} at the end for the rest, which may be empty. Needed, but where grpc has a service.",
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
        let grpc_web = fields.flag(
            "grpc_web",
            "Clients of gRPC-Web reach an upstream that speaks gRPC alone. Default no: it is passed on as it is.",
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
        if let (Leads::Split(SplitField::Named(_)), true) = (leads.as_ref()?, fields.has("rollout"))
        {
            fields.wrong("rollout", "it is of the split of that name; write it there");
        }
        Some(Self {
            name,
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
            grpc_web,
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
    if by_service && fields.has("name") {
        fields.wrong("name", "each annotation of the service is a route; leave it out");
    }
    if fields.has("grpc_web") && fields.has("grpc") {
        fields.wrong(
            "grpc_web",
            "clients of this route send JSON, by grpc; give those of gRPC-Web a route of their own",
        );
    }
    if fields.has("grpc") && !fields.has("to") && !fields.has("split") {
        fields.wrong("grpc", "it is of an upstream; add to, or split");
    }
}
