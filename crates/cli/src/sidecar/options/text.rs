//! What single values look like.

use std::{net::SocketAddr, time::Duration};

use gusset_gateway::config::Rate;

use super::AppHttp;

pub(super) fn app_http(text: &str) -> Result<AppHttp, String> {
    match text {
        "1.1" => Ok(AppHttp::One),
        "2" => Ok(AppHttp::Two),
        _ => Err(format!("--app-http: '{text}' is neither 1.1 nor 2")),
    }
}

pub(super) fn address(name: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("--{name}: '{text}' is no address with a port, as 127.0.0.1:9000 is"))
}

/// `host` or `host:port`, where an address of IPv6 stands in brackets if a port follows.
pub(in crate::sidecar) fn advertised(text: &str) -> Result<(String, Option<u16>), String> {
    let wrong = || format!("--advertise: '{text}' is none of HOST, HOST:PORT");
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok((text.into(), None));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), Some(address.port())));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || !host.bytes().all(in_name) || port == Some(0) {
        return Err(wrong());
    }
    Ok((host.into(), port))
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("--meta: '{text}' is no KEY=VALUE"))?;
    Ok((key.into(), value.into()))
}

pub(super) fn number<N: std::str::FromStr>(name: &str, text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("--{name}: '{text}' is no number from 1 on"))
}

/// `250ms`, `10s`, `5m`.
pub(super) fn span(name: &str, text: &str) -> Result<Duration, String> {
    let short = match time(text) {
        Some((span, "ms" | "s" | "m")) => Some(span),
        _ => None,
    };
    short.ok_or_else(|| format!("--{name}: '{text}' is no time; write 250ms, 10s or 5m"))
}

/// `100/s`, `5/h`, `1/10s`.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    let rate = || {
        let (tokens, per) = text.split_once('/')?;
        let one = format!("1{per}");
        let (per, _) =
            time(if per.starts_with(|c: char| c.is_ascii_digit()) { per } else { &one })?;
        let tokens = tokens.parse().ok().filter(|tokens| *tokens > 0)?;
        (!per.is_zero()).then_some(Rate { tokens, per })
    };
    rate().ok_or_else(|| format!("--quota: '{text}' is no rate; write 100/s, 100/m or 1/10s"))
}

/// A span of time, and its unit.
fn time(text: &str) -> Option<(Duration, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let count: u64 = count.parse().ok()?;
    let span = match unit {
        "ms" => Duration::from_millis(count),
        "s" => Duration::from_secs(count),
        "m" => Duration::from_secs(count.checked_mul(60)?),
        "h" => Duration::from_secs(count.checked_mul(3_600)?),
        "d" => Duration::from_secs(count.checked_mul(86_400)?),
        _ => return None,
    };
    Some((span, unit))
}
