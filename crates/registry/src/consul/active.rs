//! Checks that the server makes itself: what clients ask for, and what they may.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, Uri};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{Fields, Wrong};

/// What is asked, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Active {
    pub(super) ask: Ask,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
    /// Good and bad answers in a row until they count.
    pub(super) rise: u32,
    pub(super) fall: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ask {
    Http { path: String, method: String, header: BTreeMap<String, Vec<String>> },
    Tcp,
    Grpc { service: String },
}

/// Which active checks clients of a [`ConsulServer`](crate::ConsulServer) may have it make (`HTTP`, `TCP`, `GRPC`).
///
/// A check makes the server connect to where its client says, and tells the client what came of it: who may register can so ask for things that
/// only the server reaches, such as the metadata service of a cloud. What an answer holds is never told, only its status, and redirections are not
/// followed; but a status and a refused connection tell something as well. Consul allows all of it to who may register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ActiveChecks {
    /// None; they get 400. The default: what is embedded in a process makes connections only if it is told to.
    #[default]
    Refused,
    /// Only of the address under which the instance is registered, or of loopback where that is loopback, at any port; and never of a link-local address
    /// or another one at which a cloud is known to have its metadata. A name is looked up once for each attempt, and what it resolves to is what is connected to.
    OfInstance,
    /// All.
    Anywhere,
}

const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// As in Consul.
const TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const LONGEST_TARGET: usize = 2_048;

/// The one that the fields ask for, if they do.
pub(super) fn parse(fields: &Fields<'_>) -> Result<Option<Arc<Active>>, Wrong> {
    let mut found = None;
    for kind in ["HTTP", "TCP", "GRPC"] {
        let target = fields.text(kind, LONGEST_TARGET)?;
        if !target.is_empty() && found.replace((kind, target)).is_some() {
            return Err(fields.wrong(kind, "a check is of one kind only"));
        }
    }
    let Some((kind, target)) = found else { return Ok(None) };
    for tls in ["GRPCUseTLS", "TCPUseTLS"] {
        if fields.flag(tls)? {
            return Err(fields.wrong(tls, "TLS is not spoken here"));
        }
    }
    if !fields.text("Body", LONGEST_TARGET)?.is_empty() {
        return Err(fields.wrong("Body", "requests with a body are not made here"));
    }
    let wrong = |what: &str| fields.wrong(kind, what);
    let (ask, authority) = match kind {
        "HTTP" => http(fields, &target)?,
        "TCP" => (Ask::Tcp, target),
        _ => {
            let (authority, service) = target.split_once('/').unwrap_or((&target, ""));
            (Ask::Grpc { service: service.into() }, authority.into())
        }
    };
    let (host, port) = split(&authority).ok_or_else(|| wrong("is not host:port"))?;
    let interval = fields.span("Interval")?;
    let interval = interval.ok_or_else(|| fields.wrong("Interval", "missing"))?;
    if interval.is_zero() {
        return Err(fields.wrong("Interval", "must be above 0"));
    }
    let timeout = fields.span("Timeout")?.filter(|timeout| !timeout.is_zero());
    Ok(Some(Arc::new(Active {
        ask,
        host,
        port,
        interval: interval.max(SHORTEST_INTERVAL),
        timeout: timeout.unwrap_or(TIMEOUT).min(LONGEST_TIMEOUT),
        rise: fields.number("SuccessBeforePassing", 1_000)?.unwrap_or(0),
        fall: fields.number("FailuresBeforeCritical", 1_000)?.unwrap_or(0),
    })))
}

/// What is asked, and `host:port`.
fn http(fields: &Fields<'_>, target: &str) -> Result<(Ask, String), Wrong> {
    let wrong = |what: &str| fields.wrong("HTTP", what);
    if target.starts_with("https:") {
        return Err(wrong("TLS is not spoken here"));
    }
    let uri: Uri = target.parse().map_err(|_| wrong("is no URL"))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
    let authority = authority.ok_or_else(|| wrong("is no URL like \"http://host:port/path\""))?;
    if authority.as_str().contains('@') {
        return Err(wrong("names a user"));
    }
    let whole = match authority.port_u16() {
        Some(_) => authority.to_string(),
        None => format!("{}:80", authority.host()),
    };
    let method = fields.text("Method", 32)?;
    let method = if method.is_empty() { "GET".into() } else { method };
    Method::from_bytes(method.as_bytes()).map_err(|_| fields.wrong("Method", "is none"))?;
    let mut header = BTreeMap::new();
    if let Some(sent) = fields.get("Header") {
        let sent = sent.as_object().ok_or_else(|| fields.wrong("Header", "is no object"))?;
        for (name, values) in sent {
            let values = headers(name, values);
            let values = values.ok_or_else(|| fields.wrong("Header", "is no map of lists"))?;
            header.insert(name.clone(), values);
        }
    }
    if header.len() > 32 {
        return Err(fields.wrong("Header", "more than 32 entries"));
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).into();
    Ok((Ask::Http { path, method, header }, whole))
}

fn headers(name: &str, values: &Value) -> Option<Vec<String>> {
    name.parse::<HeaderName>().ok()?;
    let values = values.as_array().filter(|values| values.len() <= 16)?.iter().map(|value| {
        let value = value.as_str().filter(|value| value.len() <= 4_096)?;
        HeaderValue::from_str(value).ok().map(|_| value.to_owned())
    });
    values.collect()
}

/// An IPv6 address stands in brackets.
fn split(authority: &str) -> Option<(String, u16)> {
    let (host, port) = authority.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let bare = bare.unwrap_or(if host.contains(':') { "" } else { host });
    let good = !bare.is_empty() && bare.len() <= 253 && bare.chars().all(|c| c.is_ascii_graphic());
    Some((bare.into(), port.parse().ok().filter(|port| *port > 0 && good)?))
}

impl ActiveChecks {
    /// Whether a check of `host` may be made for what is registered at `address`; if not, why.
    pub(super) fn permit(self, host: &str, address: &str) -> Result<(), String> {
        match self {
            Self::Refused => {
                Err("active checks are not made here, only TTL checks are served".into())
            }
            Self::Anywhere => Ok(()),
            Self::OfInstance => {
                let own = host.eq_ignore_ascii_case(address);
                match own || (is_loopback(host) && is_loopback(address)) {
                    true => Ok(()),
                    false => Err(format!(
                        "{host:?} is not the address of the instance ({address:?}), and no other is asked here"
                    )),
                }
            }
        }
    }

    /// Whether what a host resolved to may be connected to.
    pub(super) fn permits(self, ip: IpAddr) -> bool {
        let ip = embedded(ip).map_or(ip.to_canonical(), IpAddr::V4);
        let local = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let nobody = ip.is_unspecified() || ip.is_multicast();
        self == Self::Anywhere || !(local || nobody || METADATA.contains(&ip))
    }
}

/// Where clouds have their metadata beside link-local addresses: Amazon's and Google's over IPv6, Alibaba's, Azure's, and Oracle's.
const METADATA: [IpAddr; 5] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// The IPv4 address that a packet to this one may end up at: through NAT64 (RFC 6052) or 6to4 (RFC 3056), or compatible as was meant once.
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let from = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(from(high, low)),
        [0x2002, high, low, ..] => Some(from(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high > 0 => Some(from(high, low)),
        _ => None,
    }
}

fn is_loopback(host: &str) -> bool {
    let ip = host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    ip || host.eq_ignore_ascii_case("localhost")
}

impl Active {
    pub(super) const fn kind(&self) -> &'static str {
        match self.ask {
            Ask::Http { .. } => "http",
            Ask::Tcp => "tcp",
            Ask::Grpc { .. } => "grpc",
        }
    }

    /// `host:port`, and for who reads it what is asked there.
    pub(super) fn target(&self) -> String {
        let host = &self.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        match &self.ask {
            Ask::Http { path, .. } => format!("http://{host}:{}{path}", self.port),
            Ask::Grpc { service } if !service.is_empty() => {
                format!("{host}:{}/{service}", self.port)
            }
            _ => format!("{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(check: &Value) -> Result<Option<Arc<Active>>, String> {
        parse(&Fields::top(check).unwrap()).map_err(|wrong| wrong.0)
    }

    #[test]
    fn a_check_has_one_target_and_an_interval() {
        let check = json!({"HTTP": "http://[::1]/a?b", "Interval": "100ms", "Method": "HEAD", "Header": {"x": ["1"]}});
        let active = parsed(&check).unwrap().unwrap();
        assert_eq!((&*active.host, active.port, active.interval.as_secs()), ("::1", 80, 1));
        assert_eq!(
            (active.target().as_str(), active.timeout.as_secs()),
            ("http://[::1]:80/a?b", 10)
        );
        let grpc = parsed(&json!({"grpc": "h:1/s", "interval": "5s", "timeout": "2m"})).unwrap();
        assert_eq!(grpc.as_ref().unwrap().target(), "h:1/s");
        assert_eq!(grpc.unwrap().timeout, LONGEST_TIMEOUT);
        assert_eq!(parsed(&json!({"TTL": "1s", "HTTP": "", "TCP": null})), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_a_check_is_said() {
        for (check, said) in [
            (json!({"HTTP": "https://h/"}), "HTTP: TLS is not spoken here"),
            (json!({"HTTP": "h:80"}), "HTTP: is no URL like \"http://host:port/path\""),
            (json!({"HTTP": "http://u@h/"}), "HTTP: names a user"),
            (json!({"HTTP": "http://h:0/", "Interval": "1s"}), "HTTP: is not host:port"),
            (json!({"HTTP": "http://h/", "Header": {"a b": ["c"]}}), "Header: is no map of lists"),
            (json!({"HTTP": "http://h/", "Header": {"a": ["\n"]}}), "Header: is no map of lists"),
            (json!({"HTTP": "http://h/", "Method": "A B"}), "Method: is none"),
            (
                json!({"HTTP": "http://h/", "Body": "{}"}),
                "Body: requests with a body are not made here",
            ),
            (json!({"TCP": "::1:80", "Interval": "1s"}), "TCP: is not host:port"),
            (json!({"TCP": "h", "Interval": "1s"}), "TCP: is not host:port"),
            (json!({"TCP": "h:1"}), "Interval: missing"),
            (json!({"TCP": "h:1", "Interval": "0s"}), "Interval: must be above 0"),
            (json!({"GRPC": "h:1", "GRPCUseTLS": true}), "GRPCUseTLS: TLS is not spoken here"),
            (json!({"TCP": "h:1", "GRPC": "h:1"}), "GRPC: a check is of one kind only"),
        ] {
            assert_eq!(parsed(&check).unwrap_err(), said, "{check}");
        }
    }

    #[test]
    fn only_the_address_of_the_instance_is_asked_and_never_a_metadata_service() {
        let may = |host, address| ActiveChecks::OfInstance.permit(host, address).is_ok();
        assert!(may("10.0.0.7", "10.0.0.7") && may("Cart.internal", "cart.internal"));
        assert!(may("localhost", "127.0.0.1") && may("127.0.0.2", "::1"));
        assert!(!may("10.0.0.8", "10.0.0.7") && !may("127.0.0.1", "10.0.0.7"));
        assert_eq!(
            ActiveChecks::OfInstance.permit("10.0.0.8", "10.0.0.7").unwrap_err(),
            "\"10.0.0.8\" is not the address of the instance (\"10.0.0.7\"), and no other is asked here"
        );
        assert!(ActiveChecks::Refused.permit("h", "h").is_err());
        assert!(ActiveChecks::Anywhere.permit("g", "h").is_ok());
        for ip in [
            "169.254.169.254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::169.254.169.254",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
        ] {
            let ip = ip.parse().unwrap();
            assert!(!ActiveChecks::OfInstance.permits(ip) && ActiveChecks::Anywhere.permits(ip));
        }
        for ip in ["10.0.0.7", "::1", "fd00::7", "2001:db8::1", "64:ff9b::a00:7"] {
            assert!(ActiveChecks::OfInstance.permits(ip.parse().unwrap()), "{ip}");
        }
    }
}
