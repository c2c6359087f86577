//! Where the registry is, and how names stand in a path.

use std::fmt;

use http::Uri;

use crate::Error;

/// An HTTP server: host, port, and both as they stand in a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) authority: String,
    /// Over TLS.
    pub(super) secure: bool,
}

impl Address {
    /// Of `http://host:port`, `https://host:port` or `host:port`, the last with TLS if there is some to speak.
    pub(super) fn parse(url: &str, tls: bool) -> Result<Self, Error> {
        let wrong = |reason| {
            let value = url.chars().take(80).collect();
            Err(Error::Invalid { field: "address of the registry", value, reason })
        };
        let secure = url.starts_with("https:") || (tls && !url.contains("://"));
        if secure && !tls {
            return wrong(
                "asks for TLS; say by RemotePolicy::tls whom to believe (feature remote-tls)",
            );
        }
        if tls && !secure {
            return wrong("asks for no TLS, and the policy for some");
        }
        let whole = if url.contains("://") { url.into() } else { format!("http://{url}") };
        let Ok(uri) = whole.parse::<Uri>() else {
            return wrong("is none of host:port, http://host:port, https://host:port");
        };
        let Some(authority) =
            uri.authority().filter(|_| matches!(uri.scheme_str(), Some("http" | "https")))
        else {
            return wrong("is none of host:port, http://host:port, https://host:port");
        };
        if authority.as_str().contains('@') {
            return wrong("names a user; a token belongs into the policy");
        }
        if uri.path() != "/" || uri.query().is_some() {
            return wrong("has a path; the API stands at /v1");
        }
        let Some(port) = authority.port_u16().filter(|port| *port > 0) else {
            return wrong("has no port");
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return wrong("has no host");
        }
        Ok(Self { host: host.into(), port, authority: authority.as_str().into(), secure })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}", if self.secure { "s" } else { "" }, self.authority)
    }
}

/// `text` as part of a path or of a query. A `/` stays one: the server takes all that stands behind the route for the name.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (url, host, authority) in [
            ("127.0.0.1:8500", "127.0.0.1", "127.0.0.1:8500"),
            ("http://registry:8500/", "registry", "registry:8500"),
            ("http://[::1]:8500", "::1", "[::1]:8500"),
        ] {
            let address = Address::parse(url, false).unwrap();
            assert!(!address.secure);
            assert_eq!((&*address.host, &*address.authority), (host, authority));
            assert_eq!(address.port, 8500);
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        for (url, reason) in [
            (
                "https://registry:8501",
                "asks for TLS; say by RemotePolicy::tls whom to believe (feature remote-tls)",
            ),
            ("registry", "has no port"),
            ("http://registry:0", "has no port"),
            ("http://u:p@registry:8500", "names a user; a token belongs into the policy"),
            ("http://registry:8500/consul", "has a path; the API stands at /v1"),
            ("", "is none of host:port, http://host:port, https://host:port"),
            ("ftp://registry:8500", "is none of host:port, http://host:port, https://host:port"),
        ] {
            let error = Address::parse(url, false).unwrap_err().to_string();
            assert_eq!(error, format!("address of the registry {url:?} {reason}"));
        }
    }

    #[test]
    fn whether_tls_is_spoken_is_said_by_policy_and_address_together() {
        for url in ["https://registry:8501", "registry:8501"] {
            let address = Address::parse(url, true).unwrap();
            assert_eq!(address.to_string(), "https://registry:8501");
        }
        let error = Address::parse("http://registry:8501", true).unwrap_err().to_string();
        assert!(error.ends_with("asks for no TLS, and the policy for some"), "{error}");
    }

    #[test]
    fn names_stand_in_a_path_without_what_has_a_meaning_there() {
        assert_eq!(encoded("a/b c?\u{e4}%+"), "a/b%20c%3F%C3%A4%25%2B");
    }
}
