//! What the environment says.

use std::time::Duration;

/// All of it has a default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `PORT`: where it listens. Default 8080, 0 for any free one.
    pub port: u16,
    /// `SERVICE_HOST`: how others reach this machine. Default `127.0.0.1`.
    pub host: String,
    /// `REGISTRY`: where it registers, as `http://HOST:PORT`. Default nowhere.
    pub registry: Option<String>,
    /// `NOTICE_SECONDS`: for how long it goes on accepting after it turned unready. Default 0.
    pub notice: Duration,
}

impl Settings {
    /// Reads them; `var` is the environment.
    ///
    /// # Errors
    ///
    /// The first variable that makes no sense, with its name and what it says.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let number = |name: &str, default: u16| match var(name) {
            None => Ok(default),
            Some(text) => {
                text.parse().map_err(|_| format!("{name} is no number up to 65535: '{text}'"))
            }
        };
        Ok(Self {
            port: number("PORT", 8080)?,
            host: var("SERVICE_HOST").unwrap_or_else(|| "127.0.0.1".to_owned()),
            registry: var("REGISTRY").filter(|url| !url.is_empty()),
            notice: Duration::from_secs(number("NOTICE_SECONDS", 0)?.into()),
        })
    }
}
