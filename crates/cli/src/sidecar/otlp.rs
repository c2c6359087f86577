//! What a collector of OpenTelemetry gets.

use gusset_sidecar::telemetry::{Otlp, OtlpTls};

use super::options::OtlpTo;

/// `None` where nothing is exported.
pub(super) fn checked(to: OtlpTo) -> Result<Option<OtlpTo>, String> {
    if to == OtlpTo::default() {
        return Ok(None);
    }
    let wrong = || format!("--otlp: '{}' is no URL, as http://127.0.0.1:4318 is", to.url);
    let url: http::Uri = to.url.parse().map_err(|_| wrong())?;
    let host = url.host().filter(|host| !host.is_empty());
    if !matches!(url.scheme_str(), Some("http" | "https")) || host.is_none() {
        return Err(wrong());
    }
    Ok(Some(to))
}

/// Over HTTP. What the environment says of exports is for the app.
pub(super) fn otlp(to: &OtlpTo) -> Result<Otlp, String> {
    let mut otlp = Otlp::new().endpoint(to.url.as_str());
    for (name, value) in &to.headers {
        otlp = otlp.header(name, value);
    }
    let Some(file) = &to.authority else { return Ok(otlp) };
    let wrong = |error: String| format!("--otlp-ca: {}: {error}", file.display());
    let read = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    Ok(otlp.tls(OtlpTls::new(&read).map_err(|error| wrong(error.to_string()))?))
}
