//! What `gateway.toml` says, as it stands there.

mod answer;
mod composed;
mod condition;
mod eject;
mod hedge;
mod identity;
mod quota;
mod redis;
mod route;
mod server;
mod shared;
mod shed;
mod split;
mod traffic;
mod upstream;

pub(super) use answer::{AnswerSection, RedirectSection};
pub(super) use composed::{BranchSection, FanOutSection, GrpcOf, GrpcSection};
pub(super) use condition::{ConditionSection, EditsSection};
use eject::Eject;
use hedge::HedgeSection;
pub(super) use identity::{
    ApiKeysSection, CertificatesSection, HeadersSection, JwtKeys, JwtSection,
};
use quota::IdempotencySection;
pub(super) use quota::{QuotaBy, QuotaSection};
pub(super) use redis::{Away, RedisSection};
pub(super) use route::{Leads, RouteSection};
pub(super) use server::{
    AccessLogSection, AdminSection, EtcdFields, RegistryAt, RegistrySection, ServerSection,
};
pub(super) use shared::{BreakerSection, CorsSection, DefaultsSection, Pick, RetrySection};
pub(super) use shed::ShedSection;
use split::StickySection;
pub(super) use split::{RolloutSection, SplitField, SplitSection, VariantSection};
pub(super) use traffic::{MirrorSection, TrafficFields};
pub(super) use upstream::{ConnectionsSection, Expected, HttpVersion, UpstreamSection};

use super::{Fields, Named, OneOrMore, Section};

/// The whole file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FileSection {
    pub(super) server: Option<ServerSection>,
    pub(super) admin: Option<AdminSection>,
    pub(super) access_log: Option<AccessLogSection>,
    pub(super) registry: Option<RegistrySection>,
    pub(super) redis: Option<RedisSection>,
    pub(super) jwt: Vec<JwtSection>,
    pub(super) api_keys: Option<ApiKeysSection>,
    pub(super) certificates: Option<CertificatesSection>,
    pub(super) identity_headers: Option<HeadersSection>,
    pub(super) defaults: Option<DefaultsSection>,
    pub(super) upstreams: Vec<Named<UpstreamSection>>,
    pub(super) splits: Vec<Named<SplitSection>>,
    pub(super) routes: Vec<RouteSection>,
}

impl Section for FileSection {
    const NAME: &'static str = "gusset gateway";
    const ABOUT: &'static str = "What `gusset gateway` reads.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            server: fields.optional("server", "Where it listens, and what clients may hold."),
            admin: fields.optional("admin", "A listener for operators. Default none."),
            access_log: fields.optional(
                "access_log",
                "A line of JSON for each request. Default none. A change needs a restart.",
            ),
            registry: fields.optional(
                "registry",
                "Where services are found by their names. Default none: only fixed addresses.",
            ),
            redis: fields.optional(
                "redis",
                "What several gateways share, where quotas and idempotency say shared = true. Default none.",
            ),
            jwt: fields
                .optional::<OneOrMore<_>>(
                    "jwt",
                    "Senders by signed tokens; several issuers are a list, [[jwt]].",
                )
                .unwrap_or_default()
                .0,
            api_keys: fields.optional("api_keys", "Senders by API keys."),
            certificates: fields.optional(
                "certificates",
                "Senders by the certificates that they show; needs server.clients.",
            ),
            identity_headers: fields
                .optional("identity_headers", "How upstreams are told who sends."),
            defaults: fields.optional(
                "defaults",
                "What holds for all routes and upstreams that do not say otherwise.",
            ),
            upstreams: fields.named("upstreams", "Where requests go, by a name that routes use."),
            splits: fields.named(
                "splits",
                "Several upstreams by weight, by a name that routes use. Weights and rollout of one are those of all its routes.",
            ),
            routes: fields.list("routes", "Which requests go where. Their order means nothing."),
        })
    }
}
