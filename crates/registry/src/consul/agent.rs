//! `/v1/agent`: services and checks of our own node.

use serde_json::{Map, Value, json};

use super::{
    answer::{Answer, Failure},
    fields::{self, Fields},
    input,
    record::{CheckDef, Status},
    render,
    request::Call,
    routes::Route,
    server::{ConsulServer, State},
};

impl ConsulServer {
    pub(super) fn agent_self(&self) -> Answer {
        let policy = self.policy();
        Answer::json(json!({
            "Config": {
                "Datacenter": policy.datacenter,
                "NodeName": policy.node,
                "NodeID": "",
                "Server": true,
                "Revision": "gusset",
                // Clients look here for what they may use.
                "Version": "1.11.0",
            },
            "Member": self.member(),
            "Meta": {},
        }))
    }

    pub(super) fn agent_members(&self) -> Answer {
        Answer::json(vec![self.member()])
    }

    fn member(&self) -> Value {
        let policy = self.policy();
        json!({
            "Name": policy.node,
            "Addr": policy.address,
            "Port": 8301,
            "Tags": {"dc": policy.datacenter, "role": "consul"},
            "Status": 1,
        })
    }

    pub(super) fn agent_services(&self, call: &Call) -> Result<Answer, Failure> {
        let (records, frame) =
            self.read(|state, frame| (state.catalog.services_on(&state.catalog.own), frame));
        let shown = records.iter().map(|record| render::agent_service(record, &frame));
        let shown = filtered(call, shown)?.into_iter();
        let by_id = shown.map(|shown| (shown["ID"].as_str().unwrap_or_default().to_owned(), shown));
        Ok(Answer::json(by_id.collect::<Map<_, _>>()))
    }

    pub(super) fn agent_service(&self, call: &Call) -> Result<Answer, Failure> {
        let found = self.read(|state, frame| {
            let record = state.catalog.service_on(&state.catalog.own, &call.name)?;
            Some(render::agent_service(record, &frame))
        });
        let unknown = || Failure::not_found(format!("unknown service ID: {}", call.name));
        found.map(Answer::json).ok_or_else(unknown)
    }

    pub(super) fn agent_checks(&self, call: &Call) -> Result<Answer, Failure> {
        let records = self.read(|state, _| state.catalog.checks_on(&state.catalog.own));
        let shown = records.iter().map(|record| render::check(record));
        let shown = filtered(call, shown)?.into_iter();
        let id = |shown: &Value| shown["CheckID"].as_str().unwrap_or_default().to_owned();
        Ok(Answer::json(shown.map(|shown| (id(&shown), shown)).collect::<Map<_, _>>()))
    }

    pub(super) fn register_service(&self, call: &Call) -> Result<Answer, Failure> {
        let body = fields::parse(&call.body)?;
        let (service, checks) = input::agent_service(&Fields::top(&body)?)?;
        let address = match service.address.is_empty() {
            true => &self.policy().address,
            false => &service.address,
        };
        for check in &checks {
            self.permit(check, address)?;
        }
        let replace = call.query.has("replace-existing-checks");
        let id = service.id.clone();
        self.change(|State { catalog, indexes, .. }, now| {
            let own = catalog.own.clone();
            catalog.admit(&service, now)?;
            catalog.register(indexes, (&own, service), (checks, replace), now)
        })
        .map_err(|refused| refused.about(&id))?;
        Ok(Answer::empty())
    }

    pub(super) fn deregister_service(&self, call: &Call) -> Result<Answer, Failure> {
        let run = call.incarnation()?;
        self.change(|State { catalog, indexes, .. }, _| {
            let own = catalog.own.clone();
            catalog.fence(&call.name, run)?;
            catalog.deregister(indexes, &own, &call.name)
        })
        .map_err(|refused| refused.about(&call.name))?;
        Ok(Answer::empty())
    }

    pub(super) fn maintenance(&self, call: &Call) -> Result<Answer, Failure> {
        let enable = match call.query.get("enable") {
            None | Some("") => return Err(Failure::bad("Missing value for enable")),
            Some("true" | "1" | "t" | "T" | "TRUE" | "True") => true,
            Some("false" | "0" | "f" | "F" | "FALSE" | "False") => false,
            Some(other) => {
                return Err(Failure::bad(format!("Invalid value for enable: {other:?}")));
            }
        };
        let reason = call.query.get("reason").unwrap_or_default();
        let reason = enable.then(|| input::output(reason.into()));
        let run = call.incarnation()?;
        self.change(|State { catalog, indexes, .. }, _| {
            catalog.fence(&call.name, run)?;
            catalog.maintain(indexes, &call.name, reason)
        })
        .map_err(|refused| refused.about(&call.name))?;
        Ok(Answer::empty())
    }

    pub(super) fn register_check(&self, call: &Call) -> Result<Answer, Failure> {
        let body = fields::parse(&call.body)?;
        let check = input::agent_check(&Fields::top(&body)?)?;
        let service = check.service.clone().unwrap_or_default();
        let address = self.read(|state, _| {
            let record = state.catalog.service_on(&state.catalog.own, &service);
            record.map(|record| record.def.address.clone())
        });
        let address = address.filter(|address| !address.is_empty());
        self.permit(&check, &address.unwrap_or_else(|| self.policy().address.clone()))?;
        self.change(|State { catalog, indexes, .. }, now| {
            let own = catalog.own.clone();
            catalog.add_check(indexes, &own, check, now)
        })
        .map_err(|refused| refused.about(&service))?;
        Ok(Answer::empty())
    }

    pub(super) fn deregister_check(&self, call: &Call) -> Result<Answer, Failure> {
        self.change(|State { catalog, indexes, .. }, _| {
            let own = catalog.own.clone();
            catalog.remove_check(indexes, &own, &call.name)
        })
        .map_err(|refused| refused.about(&call.name))?;
        Ok(Answer::empty())
    }

    /// What a TTL check says of itself: the heartbeat.
    pub(super) fn update(&self, route: Route, call: &Call) -> Result<Answer, Failure> {
        let note = || input::output(call.query.get("note").unwrap_or_default().into());
        let (status, output) = match route {
            Route::Pass => (Status::Passing, note()),
            Route::Warn => (Status::Warning, note()),
            Route::Fail => (Status::Critical, note()),
            _ => {
                let body = fields::parse(&call.body)?;
                let fields = Fields::top(&body)?;
                let output = fields.text("Output", usize::MAX)?;
                (input::status(&fields)?, input::output(output))
            }
        };
        let run = call.incarnation()?;
        self.change(|State { catalog, indexes, .. }, now| {
            let own = catalog.own.clone();
            catalog.fence_check(&call.name, run)?;
            catalog.set_status(indexes, (&own, &call.name), (status, Some(&output)), now)
        })
        .map_err(|refused| refused.about(&call.name))?;
        Ok(Answer::empty())
    }

    /// Whether a check may be made for what is registered at `address`.
    fn permit(&self, check: &CheckDef, address: &str) -> Result<(), Failure> {
        let Some(active) = &check.active else { return Ok(()) };
        let refused = |why| Failure::bad(format!("{}: {why}", active.kind().to_uppercase()));
        self.policy().checks.permit(&active.host, address).map_err(refused)
    }

    pub(super) fn leader(&self) -> String {
        format!("{}:8300", self.policy().address)
    }
}

/// Those that the query's `filter` lets through.
pub(super) fn filtered(
    call: &Call,
    shown: impl Iterator<Item = Value>,
) -> Result<Vec<Value>, Failure> {
    match call.query.get("filter").filter(|filter| !filter.is_empty()) {
        None => Ok(shown.collect()),
        Some(filter) => {
            let filter = super::filter_parser::parse(filter)?;
            Ok(shown.filter(|shown| filter.holds(shown)).collect())
        }
    }
}
