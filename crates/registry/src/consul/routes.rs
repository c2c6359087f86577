//! Which request is for whom.

use http::{HeaderMap, Method, StatusCode, header};

use super::{
    answer::{Answer, Failure},
    query::Query,
    request::Call,
    server::ConsulServer,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    AgentSelf,
    AgentMembers,
    AgentMetrics,
    AgentServices,
    AgentService,
    AgentChecks,
    RegisterService,
    DeregisterService,
    Maintenance,
    RegisterCheck,
    DeregisterCheck,
    Pass,
    Warn,
    Fail,
    Update,
    HealthService,
    HealthState,
    HealthChecks,
    HealthNode,
    CatalogServices,
    CatalogService,
    CatalogNodes,
    CatalogNode,
    CatalogDatacenters,
    CatalogRegister,
    CatalogDeregister,
    Kv,
    Leader,
    Peers,
    Prometheus,
}

/// Those that end with a slash take a name. What is more special goes first.
const ROUTES: &[(&str, &str, Route)] = &[
    ("agent/self", GET, Route::AgentSelf),
    ("agent/members", GET, Route::AgentMembers),
    ("agent/metrics", GET, Route::AgentMetrics),
    ("agent/services", GET, Route::AgentServices),
    ("agent/service/register", PUT, Route::RegisterService),
    ("agent/service/deregister/", PUT, Route::DeregisterService),
    ("agent/service/maintenance/", PUT, Route::Maintenance),
    ("agent/service/", GET, Route::AgentService),
    ("agent/checks", GET, Route::AgentChecks),
    ("agent/check/register", PUT, Route::RegisterCheck),
    ("agent/check/deregister/", PUT, Route::DeregisterCheck),
    ("agent/check/pass/", PUT, Route::Pass),
    ("agent/check/warn/", PUT, Route::Warn),
    ("agent/check/fail/", PUT, Route::Fail),
    ("agent/check/update/", PUT, Route::Update),
    ("health/service/", GET, Route::HealthService),
    ("health/state/", GET, Route::HealthState),
    ("health/checks/", GET, Route::HealthChecks),
    ("health/node/", GET, Route::HealthNode),
    ("catalog/services", GET, Route::CatalogServices),
    ("catalog/service/", GET, Route::CatalogService),
    ("catalog/nodes", GET, Route::CatalogNodes),
    ("catalog/node/", GET, Route::CatalogNode),
    ("catalog/datacenters", GET, Route::CatalogDatacenters),
    ("catalog/register", PUT, Route::CatalogRegister),
    ("catalog/deregister", PUT, Route::CatalogDeregister),
    ("kv/", "GET, PUT, DELETE", Route::Kv),
    ("status/leader", GET, Route::Leader),
    ("status/peers", GET, Route::Peers),
    ("prometheus", GET, Route::Prometheus),
];

const GET: &str = "GET";
const PUT: &str = "PUT";

/// The route, and what stands behind its prefix, still encoded.
pub(super) fn find<'a>(path: &'a str, method: &Method) -> Result<(Route, &'a str), Failure> {
    let behind = |pattern: &str| {
        let rest = path.strip_prefix("/v1/")?.strip_prefix(pattern)?;
        (pattern.ends_with('/') || rest.is_empty()).then_some(rest)
    };
    let found = ROUTES
        .iter()
        .find_map(|(pattern, methods, route)| behind(pattern).map(|name| (*methods, *route, name)));
    let (methods, route, name) =
        found.ok_or_else(|| Failure::not_found(format!("{path} is not served here")))?;
    if !methods.split(", ").any(|allowed| allowed == method.as_str()) {
        return Err(Failure::method(method, methods));
    }
    Ok((route, name))
}

/// Refuses who does not show the token.
pub(super) fn authorize(token: &str, headers: &HeaderMap, query: &Query) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let shown = text("x-consul-token").or(bearer).or_else(|| query.get("token"));
    match shown {
        Some(shown) if is_equal(shown.as_bytes(), token.as_bytes()) => Ok(()),
        // Consul's clients look for these beginnings.
        Some(_) => Err(Failure::new(
            StatusCode::FORBIDDEN,
            "ACL not found: that is not the token of this server",
        )),
        None => Err(Failure::new(
            StatusCode::FORBIDDEN,
            "Permission denied: a token is needed, in X-Consul-Token or as Authorization: Bearer",
        )),
    }
}

/// Takes as long for a token that is wrong at its end as for one that is wrong at its beginning.
fn is_equal(shown: &[u8], token: &[u8]) -> bool {
    let mut different = shown.len() ^ token.len();
    for (place, byte) in shown.iter().enumerate() {
        // A token that is too long is compared to the end of what it shows.
        let wanted = token.get(place % token.len().max(1)).copied().unwrap_or_default();
        different |= usize::from(std::hint::black_box(byte ^ wanted));
    }
    different == 0
}

impl ConsulServer {
    pub(super) async fn dispatch(&self, route: Route, call: &Call) -> Result<Answer, Failure> {
        match route {
            Route::AgentSelf => Ok(self.agent_self()),
            Route::AgentMembers => Ok(self.agent_members()),
            Route::AgentMetrics => self.metrics(call).await,
            Route::AgentServices => self.agent_services(call),
            Route::AgentService => self.agent_service(call),
            Route::AgentChecks => self.agent_checks(call),
            Route::RegisterService => self.register_service(call),
            Route::DeregisterService => self.deregister_service(call),
            Route::Maintenance => self.maintenance(call),
            Route::RegisterCheck => self.register_check(call),
            Route::DeregisterCheck => self.deregister_check(call),
            Route::Pass | Route::Warn | Route::Fail | Route::Update => self.update(route, call),
            Route::HealthService => self.health_service(call).await,
            Route::HealthState => self.health_state(call).await,
            Route::HealthChecks => self.health_checks(call).await,
            Route::HealthNode => self.health_node(call).await,
            Route::CatalogServices => self.catalog_services(call).await,
            Route::CatalogService => self.catalog_service(call).await,
            Route::CatalogNodes => self.catalog_nodes(call).await,
            Route::CatalogNode => self.catalog_node(call).await,
            Route::CatalogDatacenters => Ok(self.datacenters()),
            Route::CatalogRegister => self.catalog_register(call),
            Route::CatalogDeregister => self.catalog_deregister(call),
            Route::Kv => self.kv(call).await,
            Route::Leader => Ok(Answer::json(self.leader())),
            Route::Peers => Ok(Answer::json(vec![self.leader()])),
            Route::Prometheus => self.prometheus(call).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_token_is_refused_wherever_it_is_wrong() {
        for wrong in ["", "s", "secre", "secret!", "Secret", "secreT", "secretsecret"] {
            assert!(!is_equal(wrong.as_bytes(), b"secret"), "{wrong}");
        }
        assert!(is_equal(b"secret", b"secret"));
        assert!(is_equal(b"", b"") && !is_equal(b"a", b""));
    }

    #[test]
    fn names_may_hold_slashes_and_methods_are_told() {
        let found = find("/v1/kv/a/b", &Method::GET).unwrap();
        assert_eq!(found, (Route::Kv, "a/b"));
        let found = find("/v1/agent/service/deregister/a%3Ab", &Method::PUT).unwrap();
        assert_eq!(found, (Route::DeregisterService, "a%3Ab"));
        let refused = find("/v1/agent/services", &Method::PUT).unwrap_err();
        assert_eq!(refused.text, "method PUT not allowed, only GET");
        assert_eq!(find("/v1/kv/a", &Method::DELETE).unwrap().0, Route::Kv);
        assert_eq!(find("/v1/txn", &Method::PUT).unwrap_err().status, StatusCode::NOT_FOUND);
    }
}
