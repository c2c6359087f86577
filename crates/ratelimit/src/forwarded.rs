//! The addresses in `X-Forwarded-For` and `Forwarded`, from the right.
//!
//! Each proxy writes behind what it received, so the further to the left an entry stands, the less it can be believed, and
//! the leftmost are the client's own invention. Both fields are therefore read backwards and never further than
//! asked for: nothing that stands on the left changes how the right is read, not even a quote that is never closed.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, header};

/// Which field proxies write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

impl Field {
    /// What the proxies wrote, from the right; `None` for an entry that is no address. Several lines count as one list in their
    /// order (RFC 9110, section 5.3).
    pub(crate) fn hops(self, headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> + '_ {
        let name = match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => header::FORWARDED.as_str(),
        };
        let lines = headers.get_all(name).iter().rev().map(HeaderValue::as_bytes);
        lines
            .flat_map(move |line| FromTheRight {
                rest: Some(line),
                quotes: self == Self::Forwarded,
            })
            .map(move |entry| {
                let entry = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
                match self {
                    Self::XForwardedFor => address(entry),
                    Self::Forwarded => element(entry),
                }
            })
    }
}

/// The entries of a list, last first.
struct FromTheRight<'a> {
    rest: Option<&'a [u8]>,
    /// Whether a comma in quotes is none.
    quotes: bool,
}

impl<'a> Iterator for FromTheRight<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.rest?;
        let mut quoted = false;
        for at in (0..line.len()).rev() {
            match line[at] {
                b',' if !quoted => {
                    self.rest = Some(&line[..at]);
                    return Some(&line[at + 1..]);
                }
                b'"' if self.quotes && !escaped(&line[..at]) => quoted = !quoted,
                _ => {}
            }
        }
        self.rest = None;
        Some(line)
    }
}

/// Whether what follows `before` is escaped: behind an odd number of backslashes.
fn escaped(before: &[u8]) -> bool {
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The address of one `Forwarded` element: of its one parameter `for`.
fn element(element: &str) -> Option<IpAddr> {
    let mut node = None;
    let mut rest = element;
    loop {
        let end = pair_end(rest)?;
        let (pair, behind) = rest.split_at(end);
        if let Some((name, value)) = pair.split_once('=') {
            if name.trim_matches([' ', '\t']).eq_ignore_ascii_case("for") {
                // A parameter occurs once (RFC 7239, section 4); which of two would one believe?
                if node.replace(value.trim_matches([' ', '\t'])).is_some() {
                    return None;
                }
            }
        }
        match behind.strip_prefix(';') {
            Some(behind) => rest = behind,
            None => break,
        }
    }
    let node = node?;
    let bare = node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node);
    // `unknown`, names that hide the address, and escapes, which no address has, are no addresses.
    address(bare)
}

/// Where the first pair ends: at a semicolon outside of quotes. `None` if a quote is not closed.
fn pair_end(rest: &str) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'"' if !escaped(&rest.as_bytes()[..at]) => quoted = !quoted,
            b';' if !quoted => return Some(at),
            _ => {}
        }
    }
    (!quoted).then_some(rest.len())
}

/// An address, with a port or without. IPv6 addresses with a port are in brackets.
fn address(entry: &str) -> Option<IpAddr> {
    let plain = || entry.parse::<IpAddr>().ok();
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    // The port may be missing, or a name that hides it (RFC 7239, section 6.3).
    let in_brackets = || {
        let (address, port) = entry.strip_prefix('[')?.split_once(']')?;
        (port.is_empty() || port.starts_with(":_")).then(|| address.parse::<IpAddr>().ok())?
    };
    let hidden_port = || entry.split_once(":_")?.0.parse::<IpAddr>().ok();
    plain().or_else(with_port).or_else(in_brackets).or_else(hidden_port).map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hops(field: Field, lines: &[&str]) -> Vec<Option<String>> {
        let name = if field == Field::Forwarded { "forwarded" } else { "x-forwarded-for" };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        field.hops(&headers).map(|hop| hop.map(|ip| ip.to_string())).collect()
    }

    fn first(field: Field, line: &str) -> Option<String> {
        hops(field, &[line])[0].clone()
    }

    #[test]
    fn several_lines_are_one_list_and_read_from_the_right() {
        let expected = ["4.4.4.4", "3.3.3.3", "2.2.2.2", "1.1.1.1"].map(|hop| Some(hop.to_owned()));
        let lines = ["1.1.1.1,2.2.2.2", "3.3.3.3 ,\t4.4.4.4"];
        assert_eq!(hops(Field::XForwardedFor, &lines), expected);
        let lines = ["for=1.1.1.1,for=\"2.2.2.2\"", "proto=http;For=3.3.3.3 ,\tfor=4.4.4.4:80"];
        assert_eq!(hops(Field::Forwarded, &lines), expected);
    }

    #[test]
    fn addresses_are_read_with_ports_and_brackets() {
        for (entry, address) in [
            ("198.51.100.7", "198.51.100.7"),
            ("198.51.100.7:4711", "198.51.100.7"),
            ("198.51.100.7:_hidden", "198.51.100.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]:_hidden", "2001:db8::1"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
        ] {
            assert_eq!(first(Field::XForwardedFor, entry).as_deref(), Some(address), "{entry}");
            let quoted = format!("for=\"{entry}\";by=_me");
            assert_eq!(first(Field::Forwarded, &quoted).as_deref(), Some(address), "{quoted}");
        }
    }

    #[test]
    fn what_is_no_address_is_none() {
        for entry in ["", "unknown", "_hidden", "example.com", "[1.2.3.4", "1.2.3", "[::1]x", "ü"]
        {
            assert_eq!(first(Field::XForwardedFor, entry), None, "{entry}");
            assert_eq!(first(Field::Forwarded, &format!("for=\"{entry}\"")), None, "{entry}");
        }
        for element in [
            "",
            "by=1.1.1.1",
            "1.1.1.1",
            "for=1.1.1.1;for=2.2.2.2",
            "for=\"1.1.1.1",
            "for=1.1.1.1;host=\"open",
            r#"for="1.1.1.\1""#,
        ] {
            assert_eq!(first(Field::Forwarded, element), None, "{element}");
        }
    }

    #[test]
    fn the_example_of_the_rfc_is_read() {
        let line = "for=192.0.2.43, for=\"[2001:db8:cafe::17]\", for=unknown, FOR=_SEVKISEK";
        let expected = [None, None, Some("2001:db8:cafe::17".into()), Some("192.0.2.43".into())];
        assert_eq!(hops(Field::Forwarded, &[line]), expected);
    }

    #[test]
    fn a_quote_that_the_client_left_open_swallows_nothing() {
        for forged in ["for=\"6.6.6.6", "\"", "for=\"\\", "for=6.6.6.6;host=\"", "\\\"", ",\",;"] {
            for own in ["for=198.51.100.7", "for=\"198.51.100.7:1\";host=\"a\\\",for=6.6.6.6\\\\\""]
            {
                let line = format!("{forged}, {own}");
                assert_eq!(
                    first(Field::Forwarded, &line).as_deref(),
                    Some("198.51.100.7"),
                    "{line}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_left_of_it_the_entry_of_the_own_proxy_is_read(
            forged in "[ -~]{0,40}", address: u32, of_rfc: bool, quoted: bool,
        ) {
            let address = IpAddr::V4(address.into());
            let (field, own) = match (of_rfc, quoted) {
                (false, _) => (Field::XForwardedFor, format!("{address}")),
                (true, false) => (Field::Forwarded, format!("for={address}")),
                (true, true) => (Field::Forwarded, format!("for=\"{address}:80\";proto=https")),
            };
            let expected = Some(address.to_string());
            prop_assert_eq!(&hops(field, &[&format!("{forged}, {own}")])[0], &expected);
            prop_assert_eq!(&hops(field, &[&forged, &own])[0], &expected);
        }
    }
}
