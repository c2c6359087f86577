//! Other processes, as consoles of their own would show them, asked over HTTP.

mod client;
mod sidecar;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

use crate::{Elsewhere, encoded};

use self::client::Client;

pub use client::InvalidUrl;
pub use sidecar::OtherSidecar;

type Told<'a, T> = BoxFuture<'a, Result<T, String>>;

/// A process that serves a console of its own. Feature `remote`.
#[derive(Debug)]
pub struct OtherConsole(Client);

impl OtherConsole {
    /// The one at `url`, `http://HOST[:PORT][/PATH]`, which is shown `token` with each question if it is given. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if `url` is none of this kind.
    pub fn new(url: &str, token: Option<&str>) -> Result<Self, InvalidUrl> {
        Client::new(url, token).map(Self)
    }
}

impl Elsewhere for OtherConsole {
    fn get<'a>(&'a self, path: &'a str) -> Told<'a, Option<Value>> {
        Box::pin(async move { self.0.get(&format!("api/{path}")).await })
    }

    fn order<'a>(&'a self, path: &'a str, order: &'a Value) -> Told<'a, Value> {
        Box::pin(async move { self.0.post(&format!("api/{path}"), order).await })
    }
}

/// A gateway, by its operators' listener. Feature `remote`.
#[derive(Debug)]
pub struct OtherGateway {
    name: String,
    client: Client,
}

impl OtherGateway {
    /// The one whose operators' listener is at `url`, as for [`OtherConsole::new`]; its routes are shown under `name`.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if `url` is none of this kind.
    pub fn new(name: &str, url: &str, token: Option<&str>) -> Result<Self, InvalidUrl> {
        Ok(Self { name: name.to_owned(), client: Client::new(url, token)? })
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
impl OtherGateway {
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
                let variant = encoded(variant);
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

impl Elsewhere for OtherGateway {
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

/// Of a circuit elsewhere only the state is known.
fn circuit(group: &str, name: &Value, state: &Value) -> Value {
    json!({
        "group": group,
        "name": name,
        "state": state,
        "window": { "calls": 0, "failures": 0, "slow": 0 },
    })
}
