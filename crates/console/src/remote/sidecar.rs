use serde_json::{Value, json};

use crate::Elsewhere;

use super::{InvalidUrl, Told, circuit, client::Client};

/// A sidecar, by its operators' listener. Feature `remote`.
#[derive(Debug)]
pub struct OtherSidecar {
    name: String,
    client: Client,
}

impl OtherSidecar {
    /// The one whose operators' listener is at `url`, as for [`OtherConsole::new`](crate::OtherConsole::new); where it does not say what it is, it is shown as `name`.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if `url` is none of this kind.
    pub fn new(name: &str, url: &str, token: Option<&str>) -> Result<Self, InvalidUrl> {
        Ok(Self { name: name.to_owned(), client: Client::new(url, token)? })
    }

    async fn status(&self) -> Result<Value, String> {
        self.client.get("status").await?.ok_or_else(|| "it has no /status".to_owned())
    }

    /// What it is among others: its service, and its instance. One that does not say goes by its name here.
    async fn itself(&self) -> (Value, Value) {
        let config = self.client.get("config").await.ok().flatten().unwrap_or_default();
        let (service, instance) = (&config["service"], &config["instance"]);
        match (service.is_string(), instance["id"].is_string()) {
            (true, true) => {
                let host = instance["host"].as_str().unwrap_or_default();
                let address = format!("{host}:{}", instance["port"]);
                (service.clone(), json!({ "id": instance["id"], "address": address }))
            }
            _ => (json!(self.name), json!({ "id": self.name, "address": self.name })),
        }
    }

    async fn map(&self) -> Result<Value, String> {
        let (status, (service, mut instance)) = (self.status().await?, self.itself().await);
        let outbound = status["outbound"].as_object();
        let mut services: Vec<_> = outbound
            .into_iter()
            .flatten()
            .map(|(name, instances)| {
                let instances = instances.as_array().into_iter().flatten().map(|instance| {
                    let id = &instance["instance"];
                    json!({ "id": id, "address": id, "health": instance["health"], "circuit": instance["circuit"] })
                });
                json!({ "name": name, "instances": instances.collect::<Vec<_>>() })
            })
            .collect();
        let health = if status["ready"] == true { "healthy" } else { "unhealthy" };
        instance["health"] = health.into();
        services.push(json!({ "name": service, "instances": [instance] }));
        // How much goes there is known to its metrics alone.
        let to = outbound.into_iter().flatten().map(|(to, _)| json!({ "from": service, "to": to }));
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

impl Elsewhere for OtherSidecar {
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
