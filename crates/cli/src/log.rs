//! What the program says while it runs: lines on the standard error output.

use std::io::stderr;

use tracing_subscriber::filter::LevelFilter;

const VARIABLE: &str = "GUSSET_LOG";

/// Begins to write events of the level that the environment asks for, and of those that are graver.
pub(crate) fn begin() -> Result<(), String> {
    let asked = std::env::var_os(VARIABLE).unwrap_or_else(|| "info".into());
    let level: Option<LevelFilter> = asked.to_str().and_then(|level| level.parse().ok());
    let level = level.ok_or_else(|| {
        format!("{VARIABLE}: {asked:?} is none of off, error, warn, info, debug, trace")
    })?;
    tracing_subscriber::fmt().with_writer(stderr).with_max_level(level).with_ansi(false).init();
    Ok(())
}
