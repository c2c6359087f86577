//! `/v1/catalog`, `/v1/health` and `/v1/prometheus`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{
    agent::filtered,
    answer::{Answer, Failure},
    blocking::Subject,
    catalog::Refused,
    fields::{self, Fields},
    input,
    record::{CheckRecord, Entry, ServiceRecord, Status},
    render,
    request::Call,
    server::{ConsulServer, State},
};

impl ConsulServer {
    /// What many wait for: who was blocked may get what another one was given for the same index.
    pub(super) async fn health_service(&self, call: &Call) -> Result<Answer, Failure> {
        self.wait_for_service(call).await?;
        let blocked = call.query.number("index")?.is_some_and(|index| index > 0);
        let asked = (blocked && !call.query.has("pretty"))
            .then(|| format!("{:?}?{}", call.name, call.query.subject()));
        if let Some(asked) = &asked {
            let (index, now) = self.read(|State { catalog, .. }, frame| {
                (catalog.service_index(&call.name), frame.now)
            });
            if let Some(body) = self.rendered().get(asked, index, now) {
                return Ok(Answer::written(body).at(index));
            }
        }
        let (mut entries, index, frame) = self.entries(call);
        if call.query.has("passing") {
            entries.retain(|entry| entry.status() == Status::Passing);
        }
        let shown = entries.iter().map(|entry| render::health(entry, &frame));
        let shown = Value::from(filtered(call, shown)?);
        let Some(asked) = asked else { return Ok(Answer::json(shown).at(index)) };
        let body = Bytes::from(shown.to_string());
        self.rendered().put(asked, index, frame.now, body.clone());
        Ok(Answer::written(body).at(index))
    }

    pub(super) async fn catalog_service(&self, call: &Call) -> Result<Answer, Failure> {
        self.wait_for_service(call).await?;
        let (entries, index, frame) = self.entries(call);
        let shown = entries.iter().map(|entry| render::catalog_service(entry, &frame));
        Ok(Answer::json(filtered(call, shown)?).at(index))
    }

    async fn wait_for_service(&self, call: &Call) -> Result<(), Failure> {
        if call.name.is_empty() {
            return Err(Failure::bad("Missing service name"));
        }
        let subject = Subject::Service(call.name.as_str().into());
        self.block(&call.query, &subject).await
    }

    /// The instances that the query asks for, in its order.
    fn entries(&self, call: &Call) -> (Vec<Entry>, u64, render::Frame) {
        let (mut entries, index, frame, own) = self.read(|State { catalog, .. }, frame| {
            let index = catalog.service_index(&call.name);
            (catalog.entries(&call.name), index, frame, catalog.own.clone())
        });
        let tags: Vec<_> = call.query.all("tag").filter(|tag| !tag.is_empty()).collect();
        let has = |entry: &Entry, tag: &str| {
            entry.service.def.tags.iter().any(|found| found.eq_ignore_ascii_case(tag))
        };
        entries.retain(|entry| tags.iter().all(|tag| has(entry, tag)) && is_on_node(entry, call));
        // Without coordinates all that is known is what stands on the node itself.
        if let Some(near) = call.query.get("near") {
            let near = if near == "_agent" { &*own } else { near };
            entries.sort_by_key(|entry| *entry.node.def.name != *near);
        }
        (entries, index, frame)
    }

    pub(super) async fn health_state(&self, call: &Call) -> Result<Answer, Failure> {
        let wanted = match call.name.as_str() {
            "any" => None,
            name => Some(Status::named(name).ok_or_else(|| {
                Failure::bad(format!("{name:?} is none of any, passing, warning, critical"))
            })?),
        };
        self.block(&call.query, &Subject::Checks).await?;
        let index = self.read(|State { catalog, .. }, _| catalog.checks_topic.index);
        let checks = self.all_checks().await;
        let shown = checks
            .iter()
            .filter(|check| wanted.is_none_or(|wanted| check.status == wanted))
            .map(|check| render::check(check));
        Ok(Answer::json(filtered(call, shown)?).at(index))
    }

    pub(super) async fn health_checks(&self, call: &Call) -> Result<Answer, Failure> {
        self.wait_for_service(call).await?;
        let (entries, index, _) = self.entries(call);
        let of_service = |check: &&Arc<CheckRecord>| check.service.is_some();
        let checks = entries.iter().flat_map(|entry| entry.checks.iter().filter(of_service));
        let shown = checks.map(|check| render::check(check));
        Ok(Answer::json(filtered(call, shown)?).at(index))
    }

    pub(super) async fn health_node(&self, call: &Call) -> Result<Answer, Failure> {
        self.block(&call.query, &Subject::Checks).await?;
        let (checks, index) = self.read(|State { catalog, .. }, _| {
            (catalog.checks_on(&call.name), catalog.checks_topic.index)
        });
        let shown = checks.iter().map(|check| render::check(check));
        Ok(Answer::json(filtered(call, shown)?).at(index))
    }

    pub(super) async fn catalog_services(&self, call: &Call) -> Result<Answer, Failure> {
        self.block(&call.query, &Subject::Services).await?;
        let index = self.read(|State { catalog, .. }, _| catalog.services_topic.index);
        let services = self.all_services().await;
        let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for ServiceRecord { def, .. } in services.iter().map(|record| &**record) {
            names.entry(&def.name).or_default().extend(def.tags.iter().map(String::as_str));
        }
        let shown = names
            .into_iter()
            .map(|(name, tags)| (name.to_owned(), tags.into_iter().collect::<Value>()));
        Ok(Answer::json(shown.collect::<Map<_, _>>()).at(index))
    }

    pub(super) async fn catalog_nodes(&self, call: &Call) -> Result<Answer, Failure> {
        self.block(&call.query, &Subject::Nodes).await?;
        let (nodes, index, frame) = self.read(|State { catalog, .. }, frame| {
            (catalog.nodes().cloned().collect::<Vec<_>>(), catalog.nodes_topic.index, frame)
        });
        let shown = nodes.iter().map(|node| render::node(node, &frame));
        Ok(Answer::json(filtered(call, shown)?).at(index))
    }

    pub(super) async fn catalog_node(&self, call: &Call) -> Result<Answer, Failure> {
        self.block(&call.query, &Subject::Services).await?;
        let (node, services, index, frame) = self.read(|State { catalog, .. }, frame| {
            let node = catalog.nodes().find(|node| *node.def.name == *call.name).cloned();
            let services = catalog.services_on(&call.name);
            (node, services, catalog.services_topic.index, frame)
        });
        let Some(node) = node else { return Ok(Answer::json(Value::Null).at(index)) };
        let services: BTreeMap<_, _> = services
            .iter()
            .map(|record| (record.def.id.to_string(), render::agent_service(record, &frame)))
            .collect();
        let shown = json!({"Node": render::node(&node, &frame), "Services": services});
        Ok(Answer::json(shown).at(index))
    }

    pub(super) fn datacenters(&self) -> Answer {
        Answer::json(vec![self.policy().datacenter.clone()])
    }

    pub(super) fn catalog_register(&self, call: &Call) -> Result<Answer, Failure> {
        let body = fields::parse(&call.body)?;
        let entry = input::catalog_entry(&Fields::top(&body)?)?;
        let name = entry.node.name.clone();
        self.change(|State { catalog, indexes, .. }, now| {
            let known = catalog.nodes().any(|node| node.def.name == name);
            if !(entry.skip_node && known) && name != catalog.own {
                catalog.set_node(indexes, entry.node)?;
            }
            if let Some(service) = entry.service {
                catalog.register(indexes, (&name, service), (Vec::new(), false), now)?;
            }
            for check in entry.checks {
                let (id, status, output) = (check.id.clone(), check.status, check.output.clone());
                catalog.add_check(indexes, &name, check, now)?;
                catalog.report(indexes, (&name, &id), (status, output), now);
            }
            Ok(())
        })
        .map_err(|refused: Refused| refused.about(&name))?;
        Ok(Answer::json(true))
    }

    pub(super) fn catalog_deregister(&self, call: &Call) -> Result<Answer, Failure> {
        let body = fields::parse(&call.body)?;
        let fields = Fields::top(&body)?;
        let (node, service, check) =
            (fields.name("Node")?, fields.name("ServiceID")?, fields.name("CheckID")?);
        if node.is_empty() {
            return Err(Failure::bad("Must provide node"));
        }
        let done = self.change(|State { catalog, indexes, .. }, _| {
            if !service.is_empty() {
                catalog.deregister(indexes, &node, &service)
            } else if !check.is_empty() {
                catalog.remove_check(indexes, &node, &check)
            } else if *node == *catalog.own {
                Err(Refused::NoSuchNode)
            } else {
                catalog.remove_node(indexes, &node)
            }
        });
        // As in Consul, what is not there is gone.
        let _ = done;
        Ok(Answer::json(true))
    }

    pub(super) async fn prometheus(&self, call: &Call) -> Result<Answer, Failure> {
        let frame = self.read(|_, frame| frame);
        let entries = self.all_entries().await;
        let services: Vec<_> = call.query.all("service").collect();
        let wanted = |entry: &&Entry| {
            let def = &entry.service.def;
            def.port != 0 && (services.is_empty() || services.contains(&&*def.name))
        };
        let shown = entries.iter().filter(wanted).map(|entry| render::target(entry, &frame));
        Ok(Answer::json(shown.collect::<Vec<_>>()))
    }
}

fn is_on_node(entry: &Entry, call: &Call) -> bool {
    call.query
        .all("node-meta")
        .filter_map(|meta| meta.split_once(':'))
        .all(|(key, value)| entry.node.def.meta.get(key).is_some_and(|found| found == value))
}
