//! Where each signal goes, and how.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::PathAndQuery};

use crate::telemetry::{InitError, environment::Environment};

/// What can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
    Logs,
}

/// How the messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    #[cfg(feature = "otlp-grpc")]
    Grpc,
}

/// For one signal.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) signal: Signal,
    pub(super) protocol: Protocol,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    /// Scheme, authority and path of the request.
    pub(super) uri: Uri,
    /// Secrets perhaps: never to be logged.
    pub(super) headers: HeaderMap,
    pub(super) timeout: Duration,
    #[cfg(feature = "otlp-tls")]
    pub(super) tls_files: TlsFiles,
}

/// Files that variables name, with those.
#[cfg(feature = "otlp-tls")]
#[derive(Clone, Debug)]
pub(super) struct TlsFiles {
    pub(super) authority: Option<(&'static str, String)>,
    pub(super) certificate: Option<(&'static str, String)>,
    pub(super) key: Option<(&'static str, String)>,
}

/// As the specification has it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The variables of a signal: the one for it alone, and the one for all.
struct Names {
    own: &'static str,
    all: &'static str,
}

macro_rules! names {
    ($signal:expr, $what:literal) => {
        Names {
            own: match $signal {
                Signal::Traces => concat!("OTEL_EXPORTER_OTLP_TRACES_", $what),
                Signal::Metrics => concat!("OTEL_EXPORTER_OTLP_METRICS_", $what),
                Signal::Logs => concat!("OTEL_EXPORTER_OTLP_LOGS_", $what),
            },
            all: concat!("OTEL_EXPORTER_OTLP_", $what),
        }
    };
}

impl Names {
    /// The value, and the variable that has it.
    fn get(&self, environment: &Environment) -> Option<(&'static str, String)> {
        let of = |name| environment.get(name).map(|value| (name, value.trim().to_owned()));
        of(self.own).or_else(|| of(self.all))
    }
}

impl Signal {
    /// Path over HTTP.
    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
        }
    }

    /// Path of the method over gRPC.
    #[cfg(feature = "otlp-grpc")]
    const fn method(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// Whether `OTEL_…_EXPORTER` wants it exported. Default yes, if the program does.
    pub(super) fn wanted(self, environment: &Environment) -> Result<bool, InitError> {
        let name = match self {
            Self::Traces => "OTEL_TRACES_EXPORTER",
            Self::Metrics => "OTEL_METRICS_EXPORTER",
            Self::Logs => "OTEL_LOGS_EXPORTER",
        };
        match environment.get(name).as_deref().map(str::trim) {
            None | Some("otlp") => Ok(true),
            Some("none") => Ok(false),
            Some(_) => Err(InitError::variable(name, "is neither otlp nor none")),
        }
    }
}

impl Settings {
    /// What the program says (`endpoint`, `headers`), and what it leaves open from the environment.
    pub(super) fn new(
        signal: Signal,
        endpoint: Option<&str>,
        headers: &[(String, String)],
        environment: &Environment,
    ) -> Result<Self, InitError> {
        let protocol = protocol(signal, environment)?;
        let (name, base, whole) = match endpoint {
            Some(url) => ("OTLP endpoint", url.to_owned(), false),
            None => match names!(signal, "ENDPOINT").get(environment) {
                // The variable for one signal holds the whole URL.
                Some((name, url)) => (name, url, name != "OTEL_EXPORTER_OTLP_ENDPOINT"),
                None => ("OTLP endpoint", protocol.default_endpoint().to_owned(), false),
            },
        };
        let (uri, tls) = target(name, &base, whole, protocol, signal)?;
        let authority = uri.authority();
        let host = authority.map_or("", |authority| authority.host()).trim_matches(['[', ']']);
        let port = authority.and_then(http::uri::Authority::port_u16);
        Ok(Self {
            signal,
            protocol,
            host: host.to_owned(),
            port: port.unwrap_or(if tls { 443 } else { 80 }),
            tls,
            uri,
            headers: all_headers(signal, headers, environment)?,
            timeout: timeout(signal, environment)?,
            #[cfg(feature = "otlp-tls")]
            tls_files: TlsFiles {
                authority: names!(signal, "CERTIFICATE").get(environment),
                certificate: names!(signal, "CLIENT_CERTIFICATE").get(environment),
                key: names!(signal, "CLIENT_KEY").get(environment),
            },
        })
    }

    /// For messages to humans.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl Protocol {
    const fn default_endpoint(self) -> &'static str {
        match self {
            Self::Http => "http://localhost:4318",
            #[cfg(feature = "otlp-grpc")]
            Self::Grpc => "http://localhost:4317",
        }
    }
}

fn protocol(signal: Signal, environment: &Environment) -> Result<Protocol, InitError> {
    match names!(signal, "PROTOCOL").get(environment) {
        None => Ok(Protocol::Http),
        Some((name, protocol)) => match &*protocol {
            "http/protobuf" => Ok(Protocol::Http),
            #[cfg(feature = "otlp-grpc")]
            "grpc" => Ok(Protocol::Grpc),
            #[cfg(not(feature = "otlp-grpc"))]
            "grpc" => Err(InitError::variable(name, "is grpc, which needs the feature otlp-grpc")),
            _ => Err(InitError::variable(name, "is neither http/protobuf nor grpc")),
        },
    }
}

/// The URL of the request. The error does not repeat it: somebody may have put a password there.
fn target(
    name: &'static str,
    url: &str,
    whole: bool,
    protocol: Protocol,
    signal: Signal,
) -> Result<(Uri, bool), InitError> {
    let bad = |why: &'static str| InitError::variable(name, why);
    let uri: Uri = url.parse().map_err(|_| bad("is no URL"))?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") if cfg!(feature = "otlp-tls") => true,
        Some("https") => return Err(bad("is https, which needs the feature otlp-tls")),
        _ => return Err(bad("begins neither with http:// nor with https://")),
    };
    let mut parts = uri.into_parts();
    let authority = parts.authority.as_ref().filter(|authority| !authority.host().is_empty());
    let authority = authority.ok_or_else(|| bad("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(bad("has a user in it; use a header instead"));
    }
    let given = parts.path_and_query.as_ref().map_or("/", PathAndQuery::as_str);
    let path = match protocol {
        #[cfg(feature = "otlp-grpc")]
        Protocol::Grpc => signal.method().to_owned(),
        Protocol::Http if whole => given.to_owned(),
        Protocol::Http => format!("{}{}", given.trim_end_matches('/'), signal.path()),
    };
    parts.path_and_query = Some(path.parse().map_err(|_| bad("is no URL"))?);
    let uri = Uri::from_parts(parts).map_err(|_| bad("is no URL"))?;
    Ok((uri, tls))
}

/// Those of the program, and of the environment those for one signal over those for all.
fn all_headers(
    signal: Signal,
    given: &[(String, String)],
    environment: &Environment,
) -> Result<HeaderMap, InitError> {
    let names = names!(signal, "HEADERS");
    let mut headers = HeaderMap::new();
    let mut add = |variable, pairs: &[(String, String)]| {
        for (name, value) in pairs {
            let bad = || InitError::variable(variable, "holds what can be no header");
            let name: HeaderName = name.parse().map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(())
    };
    add(names.all, &environment.pairs(names.all)?)?;
    add(names.own, &environment.pairs(names.own)?)?;
    add("OTLP header", given)?;
    Ok(headers)
}

fn timeout(signal: Signal, environment: &Environment) -> Result<Duration, InitError> {
    let Some((name, text)) = names!(signal, "TIMEOUT").get(environment) else {
        return Ok(TIMEOUT);
    };
    millis(name, &text)
}

/// A time in milliseconds, of more than none and of a day at most.
pub(super) fn millis(name: &'static str, text: &str) -> Result<Duration, InitError> {
    let millis = text.trim().parse().ok().filter(|millis| (1..=86_400_000).contains(millis));
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| InitError::variable(name, "is no number of milliseconds from 1 to a day"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let environment = Environment::of(variables.iter().copied());
        Settings::new(Signal::Logs, None, &[], &environment).map_err(|error| error.to_string())
    }

    fn uri(variables: &[(&str, &str)]) -> String {
        settings(variables).unwrap().uri.to_string()
    }

    #[test]
    fn the_variable_for_one_signal_wins_and_holds_the_whole_url() {
        const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const OWN: &str = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT";
        assert_eq!(uri(&[]), "http://localhost:4318/v1/logs");
        assert_eq!(uri(&[(ALL, "")]), "http://localhost:4318/v1/logs");
        assert_eq!(uri(&[(ALL, "http://c:1")]), "http://c:1/v1/logs");
        assert_eq!(uri(&[(ALL, "http://c:1/")]), "http://c:1/v1/logs");
        assert_eq!(uri(&[(ALL, "http://c:1/otlp/")]), "http://c:1/otlp/v1/logs");
        assert_eq!(uri(&[(ALL, "http://c:1"), (OWN, "http://d:2/mine")]), "http://d:2/mine");
        assert_eq!(uri(&[(OWN, "http://d:2")]), "http://d:2/");
        let v6 = settings(&[(ALL, "http://[::1]:4318")]).unwrap();
        assert_eq!((&*v6.host, v6.port), ("::1", 4318));
    }

    #[cfg(feature = "otlp-grpc")]
    #[test]
    fn over_grpc_the_path_is_that_of_the_method() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc"),
        ];
        let path = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
        assert_eq!(uri(&variables), format!("http://localhost:4317{path}"));
    }

    #[test]
    fn a_bad_value_is_named_and_not_told() {
        for (name, value, why) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "secret:4318", "begins neither"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[secret", "is no URL"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://secret@host", "has a user in it"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "secret://host", "begins neither"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "is neither http/protobuf nor grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "is no number of milliseconds"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "10s", "is no number of milliseconds"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "is no list of key=value"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret", "holds what can be no header"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a=secret%0a", "holds what can be no header"),
        ] {
            let error = settings(&[(name, value)]).unwrap_err();
            assert!(error.contains(&format!("{name} {why}")), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let name = "OTEL_LOGS_EXPORTER";
        let wanted = |value| Signal::Logs.wanted(&Environment::of([(name, value)]));
        assert!(wanted("").unwrap() && wanted("otlp").unwrap() && !wanted("none").unwrap());
        assert!(wanted("zipkin").unwrap_err().to_string().contains(name));
    }

    #[test]
    fn headers_of_one_signal_win_and_are_never_shown() {
        let environment = Environment::of([
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20all,x-a=1"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "authorization=Basic%20own"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "1500"),
        ]);
        let given = [("x-b".to_owned(), "2".to_owned())];
        let settings = Settings::new(Signal::Logs, None, &given, &environment).unwrap();
        assert_eq!(settings.headers["authorization"], "Basic own");
        assert_eq!(
            (&settings.headers["x-a"], &settings.headers["x-b"]),
            (&"1".parse().unwrap(), &"2".parse().unwrap())
        );
        assert_eq!(settings.timeout, Duration::from_millis(1500));
        let shown = format!("{settings:?} {environment:?}");
        assert!(!shown.contains("Basic"), "{shown}");
    }
}
