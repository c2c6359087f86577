use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

use super::{Config, layers::Texts};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    port: u16,
    share: f64,
    open: bool,
    names: Vec<String>,
    limits: BTreeMap<String, i64>,
    server: Server,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Server {
    host: Option<String>,
    port: Option<u16>,
}

/// Variables, a line each, then an empty line and a file: they are settings, or there is a reason.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (vars, file) = text.split_once("\n\n").unwrap_or((text, ""));
    let vars = vars.lines().take(32).filter_map(|line| line.split_once('='));
    let path = PathBuf::from("shop.toml");
    let texts = Texts::from([(path.clone(), file.to_owned())]);
    let config = Config::<Settings>::new().file_if_there(path).vars("SHOP", vars);
    let read = config.read(&texts);
    if let Err(error) = &read {
        assert!(!error.to_string().is_empty());
    }
    let again = Config::<Settings>::new().file_if_there("shop.toml").read(&texts);
    let Ok(settings) = again else { return };
    let _ = (settings.port, settings.share, settings.open, settings.names, settings.limits);
    let _ = (settings.server.host, settings.server.port);
}

#[cfg(test)]
#[test]
fn settings_are_read_or_there_is_a_reason() {
    gusset_engines::holds("settings", settings);
}
