//! Other processes, as consoles of their own would show them.

use std::future::Future;
use std::pin::Pin;

use gusset_console::Elsewhere;
use serde_json::{Map, Value, json};

use super::client::Client;

type Told<'a, T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send + 'a>>;

/// One that has a console.
pub(super) struct OfConsole(pub(super) Client);

impl Elsewhere for OfConsole {
    fn get<'a>(&'a self, path: &'a str) -> Told<'a, Option<Value>> {
        Box::pin(async move { self.0.get(&format!("api/{path}")).await })
    }

    fn order<'a>(&'a self, path: &'a str, order: &'a Value) -> Told<'a, Value> {
        Box::pin(async move { self.0.post(&format!("api/{path}"), order).await })
    }
}

/// A gateway, by its operators' listener.
pub(super) struct OfGateway {
    name: String,
    client: Client,
}

impl OfGateway {
    pub(super) fn new(name: &str, client: Client) -> Self {
        Self { name: name.to_owned(), client }
    }

    async fn upstreams(&self) -> Result<Map<String, Value>, String> {
        match self.client.get("upstreams").await? {
            Some(Value::Object(upstreams)) => Ok(upstreams),
            _ => Err("it has no /upstreams".to_owned()),
        }
    }

    async fn map(&self) -> Result<Value, String> {
        let routes = self.client.get("routes").await?.unwrap_or_default();
        let routes = routes.as_array().into_iter().flatten().filter(|route| route.is_object());
        let routes = routes.map(|route| {
            let mut route = route.clone();
            route["mean_ms"] = route["mean_latency_ms"].take();
            route
        });
        let services = self.upstreams().await?.into_iter().map(|(name, instances)| {
            let instances = instances.as_array().into_iter().flatten().filter(|i| i.is_object());
            let instances = instances.map(|instance| {
                let mut instance = instance.clone();
                instance["circuit"] = snake(&instance["circuit"]).into();
                instance
            });
            json!({ "name": name, "instances": instances.collect::<Vec<_>>() })
        });
        Ok(json!({
            "services": services.collect::<Vec<_>>(),
            "edges": [],
            "gateways": [{ "name": self.name, "routes": routes.collect::<Vec<_>>() }],
        }))
    }

    async fn breakers(&self) -> Result<Value, String> {
        let upstreams = self.upstreams().await?;
        let breakers = upstreams.iter().flat_map(|(upstream, instances)| {
            let instances = instances.as_array().into_iter().flatten();
            instances.map(move |instance| circuit(upstream, &instance["id"], &instance["circuit"]))
        });
        Ok(json!({ "breakers": breakers.collect::<Vec<_>>() }))
    }
}

/// Its splits, and its orders.
impl OfGateway {
    /// As its operators' listener tells them: with `at`, where orders go.
    async fn splits(&self) -> Result<Vec<Value>, String> {
        match self.client.get("splits").await? {
            Some(Value::Array(splits)) => Ok(splits),
            // One of an older release.
            _ => Ok(Vec::new()),
        }
    }

    async fn canary(&self) -> Result<Value, String> {
        let splits = self.splits().await?.into_iter().map(|split| {
            let variants = split["variants"].as_array().into_iter().flatten();
            let variants = variants.filter(|variant| variant.is_object()).map(|variant| {
                let mut variant = variant.clone();
                variant["upstream"] = variant["to"].take();
                variant
            });
            let mut rollout = split["rollout"].clone();
            if rollout.is_object() {
                rollout["why"] = rollout["reason"].take();
            }
            json!({ "name": split["route"], "variants": variants.collect::<Vec<_>>(), "rollout": rollout })
        });
        Ok(json!({ "splits": splits.collect::<Vec<_>>() }))
    }

    async fn turn(&self, split: &str, what: &str, variant: &str) -> Result<Value, String> {
        let splits = self.splits().await?;
        let found = splits.iter().find(|found| found["route"] == split);
        let at = found.and_then(|found| found["at"].as_str()).ok_or("there is no such split")?;
        let at = at.trim_start_matches('/');
        match what {
            "promote" => {
                let variant = gusset_console::encoded(variant);
                self.client.post(&format!("{at}/promote?variant={variant}"), &json!({})).await
            }
            // Weights that were set by hand are no rollout.
            "abort" => match self.client.post(&format!("{at}/abort"), &json!({})).await {
                Ok(done) => Ok(done),
                Err(_) => self.client.post(&format!("{at}/revert"), &json!({})).await,
            },
            _ => Err("a gateway takes promote and abort".to_owned()),
        }
    }

    async fn force(&self, order: &Value) -> Result<Value, String> {
        let text = |field: &str| order[field].as_str().unwrap_or_default().to_owned();
        let what = match &*text("do") {
            "force_open" => "open",
            "force_closed" => "closed",
            "reset" => "reset",
            _ => return Err("a gateway takes force_open, force_closed and reset".to_owned()),
        };
        let (upstream, instance) = (text("group"), text("name"));
        if [&upstream, &instance].iter().any(|name| name.contains(['?', '#', '%', ' '])) {
            return Err("there is no such circuit".to_owned());
        }
        let path = format!("upstreams/{upstream}/{instance}/{what}");
        self.client.post(&path, &json!({})).await
    }
}

impl Elsewhere for OfGateway {
    fn get<'a>(&'a self, path: &'a str) -> Told<'a, Option<Value>> {
        Box::pin(async move {
            match path {
                "map" => self.map().await.map(Some),
                "breakers" => self.breakers().await.map(Some),
                "canary" => self.canary().await.map(Some),
                _ => Ok(None),
            }
        })
    }

    fn order<'a>(&'a self, path: &'a str, order: &'a Value) -> Told<'a, Value> {
        Box::pin(async move {
            let text = |field: &str| order[field].as_str().unwrap_or_default();
            match path {
                "breakers" => self.force(order).await,
                "canary" => self.turn(text("split"), text("do"), text("variant")).await,
                _ => Err("nothing of that kind is to be ordered at a gateway".to_owned()),
            }
        })
    }
}

/// A sidecar, by its operators' listener.
pub(super) struct OfSidecar {
    name: String,
    client: Client,
}

impl OfSidecar {
    pub(super) fn new(name: &str, client: Client) -> Self {
        Self { name: name.to_owned(), client }
    }

    async fn status(&self) -> Result<Value, String> {
        self.client.get("status").await?.ok_or_else(|| "it has no /status".to_owned())
    }

    async fn map(&self) -> Result<Value, String> {
        let status = self.status().await?;
        let outbound = status["outbound"].as_object();
        let mut services: Vec<_> = outbound
            .into_iter()
            .flatten()
            .map(|(name, instances)| {
                let instances = instances.as_array().into_iter().flatten().map(|instance| {
                    let id = &instance["instance"];
                    json!({ "id": id, "address": id, "health": instance["health"], "circuit": snake(&instance["circuit"]) })
                });
                json!({ "name": name, "instances": instances.collect::<Vec<_>>() })
            })
            .collect();
        let health = if status["ready"] == true { "healthy" } else { "unhealthy" };
        services.push(json!({ "name": self.name, "instances": [{ "id": self.name, "address": self.name, "health": health }] }));
        // How much goes there is known to its metrics alone.
        let to =
            outbound.into_iter().flatten().map(|(to, _)| json!({ "from": self.name, "to": to }));
        Ok(json!({ "services": services, "edges": to.collect::<Vec<_>>(), "gateways": [] }))
    }

    async fn breakers(&self) -> Result<Value, String> {
        let status = self.status().await?;
        let outbound = status["outbound"].as_object().into_iter().flatten();
        let breakers = outbound.flat_map(|(service, instances)| {
            let instances = instances.as_array().into_iter().flatten();
            instances.map(move |i| circuit(service, &i["instance"], &i["circuit"]))
        });
        Ok(json!({ "breakers": breakers.collect::<Vec<_>>() }))
    }

    async fn traces(&self) -> Result<Value, String> {
        let (traces, logs) =
            (self.client.get("traces?limit=200"), self.client.get("logs?limit=100"));
        let (traces, logs) = tokio::try_join!(traces, logs)?;
        let (traces, logs) = (traces.unwrap_or_default(), logs.unwrap_or_default());
        Ok(json!({ "newest": traces["traces"], "logs": logs["logs"], "stats": {} }))
    }

    /// As a console tells it: with the depth and the name of each row.
    async fn trace(&self, id: &str) -> Result<Option<Value>, String> {
        let Some(found) = self.client.get(&format!("traces/{id}")).await? else { return Ok(None) };
        let spans = found["spans"].as_array().into_iter().flatten();
        let rows = spans.map(|span| {
            let words =
                [&span["method"], &span["operation"]].map(|word| word.as_str().unwrap_or_default());
            let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let failed = span["end"] == "error"
                || span["status"].as_u64().is_some_and(|status| status >= 500);
            json!({ "depth": 0, "name": words.join(" "), "failed": failed, "span": span })
        });
        Ok(Some(
            json!({ "trace_id": found["trace_id"], "spans": rows.collect::<Vec<_>>(), "logs": found["logs"] }),
        ))
    }
}

impl Elsewhere for OfSidecar {
    fn get<'a>(&'a self, path: &'a str) -> Told<'a, Option<Value>> {
        Box::pin(async move {
            match path {
                "map" => self.map().await.map(Some),
                "breakers" => self.breakers().await.map(Some),
                "traces" => self.traces().await.map(Some),
                "traces/all" => self.client.get("traces?limit=1000").await,
                path => match path.strip_prefix("traces/") {
                    Some(id) => self.trace(id).await,
                    None => Ok(None),
                },
            }
        })
    }
}

/// Of a circuit elsewhere only the state is known.
fn circuit(group: &str, name: &Value, state: &Value) -> Value {
    json!({
        "group": group,
        "name": name,
        "state": snake(state),
        "window": { "calls": 0, "failures": 0, "slow": 0 },
    })
}

/// As this console writes states: `half open` and `HalfOpen` alike.
fn snake(state: &Value) -> String {
    match state.as_str().unwrap_or("other").replace([' ', '_'], "").to_lowercase().as_str() {
        "halfopen" => "half_open",
        "forcedopen" => "forced_open",
        "forcedclosed" => "forced_closed",
        "closed" => "closed",
        "open" => "open",
        "disabled" => "disabled",
        _ => "other",
    }
    .to_owned()
}
