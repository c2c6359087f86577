//! The one host that a request is for.

use http::{HeaderMap, HeaderValue, Uri, header};

/// The host of a request, with its port: the authority of the target if there is one, else the one `Host` line (RFC 9112,
/// 3.2). `None` if there is none, more than one, or one that is no host.
pub(crate) fn host_of<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    let mut lines = headers.iter().filter(|(name, _)| **name == header::HOST);
    let line = lines.next().map(|(_, line)| line);
    if lines.next().is_some() {
        return None;
    }
    let line = match line {
        Some(line) => Some(line.to_str().ok().filter(|host| is_host(host))?),
        None => None,
    };
    match uri.authority() {
        Some(authority) => Some(authority.as_str()).filter(|host| is_host(host)),
        None => line,
    }
}

/// The first line of `Host`. Clients send it before all others, so that it is found there more cheaply than by its name.
pub(crate) fn host_line(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.iter().find(|(name, _)| **name == header::HOST).map(|(_, line)| line)
}

/// `name`, `1.2.3.4` or `[v6]`, each with or without a port. No user information, which RFC 9110 forbids here.
pub(crate) fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return false,
        },
        None => text.split_at(text.bytes().position(|byte| byte == b':').unwrap_or(text.len())),
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()) && digits.len() <= 5,
        None => port.is_empty(),
    };
    // The sub-delimiters that RFC 3986 allows in names have no business in one; `_` is common inside of clusters.
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !name.is_empty() && name.bytes().all(in_name) && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(target: &str, lines: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::HOST, line.parse().unwrap());
        }
        host_of(&target.parse().unwrap(), &headers).map(str::to_owned)
    }

    #[test]
    fn there_is_exactly_one_valid_host() {
        for good in ["shop", "shop.example:80", "1.2.3.4", "[::1]:8080", "[::1]", "a_b.c-d."] {
            assert_eq!(host("/", &[good]).as_deref(), Some(good));
        }
        for bad in
            ["", ":80", "a b", "user@shop", "shop:http", "[::1", "[x]", "::1", "a/b", "a:1:2"]
        {
            assert_eq!(host("/", &[bad]), None, "{bad}");
        }
        assert_eq!(host("/", &[]), None);
        assert_eq!(host("/", &["shop", "shop"]), None);
    }

    #[test]
    fn the_authority_of_the_target_wins() {
        assert_eq!(host("http://one/", &["two"]).as_deref(), Some("one"));
        assert_eq!(host("http://one:1/", &[]).as_deref(), Some("one:1"));
        assert_eq!(host("http://user@one/", &[]), None);
        assert_eq!(host("http://one/", &["t wo"]), None, "a bad line is bad in any case");
    }
}
