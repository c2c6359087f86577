//! One spelling for every path, so that what is matched is what is forwarded.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadPath {
    /// It does not begin with a slash.
    Relative,
    /// A percent sign without two hexadecimal digits.
    Encoding,
    /// Servers disagree on what it means: an encoded slash or backslash, a NUL, a dot segment with parameters.
    Ambiguous,
}

/// Removes dot segments (RFC 3986, 5.2.4) and empty segments, decodes unreserved characters and writes other
/// encodings in upper case (RFC 3986, 6.2.2). A path above the root ends at the root.
///
/// Empty segments go because many servers drop them: `//admin` would match another route here than there.
pub(crate) fn normalise(path: &str) -> Result<Cow<'_, str>, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath::Relative);
    }
    if is_normal(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?;
    remove_empty_and_dot_segments(&decoded).map(Cow::Owned)
}

/// Whether there is certainly nothing to do. Nearly all paths take this way out.
fn is_normal(path: &[u8]) -> bool {
    let odd = |byte| matches!(byte, b'%' | b'\\' | b';' | 0);
    let after_slash = |pair: &[u8]| pair[0] == b'/' && matches!(pair[1], b'/' | b'.');
    !path.iter().copied().any(odd) && !path.windows(2).any(after_slash)
}

fn decode_unreserved(path: &str) -> Result<String, BadPath> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\', '\0']) {
        let (before, found) = rest.split_at(at);
        decoded.push_str(before);
        let byte = found.strip_prefix('%').ok_or(BadPath::Ambiguous).and_then(hex_pair)?;
        match byte {
            b'/' | b'\\' | 0 => return Err(BadPath::Ambiguous),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                decoded.push(char::from(byte));
            }
            _ => {
                decoded.push('%');
                decoded.push_str(&found[1..3].to_ascii_uppercase());
            }
        }
        rest = &found[3..];
    }
    decoded.push_str(rest);
    Ok(decoded)
}

fn hex_pair(text: &str) -> Result<u8, BadPath> {
    let digits = text.get(..2).ok_or(BadPath::Encoding)?;
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(BadPath::Encoding);
    }
    u8::from_str_radix(digits, 16).map_err(|_| BadPath::Encoding)
}

fn remove_empty_and_dot_segments(path: &str) -> Result<String, BadPath> {
    let mut normal = String::with_capacity(path.len());
    let mut ends_in_slash = false;
    for segment in path.split('/') {
        ends_in_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => normal.truncate(normal.rfind('/').unwrap_or(0)),
            // Some servers cut the parameters off first and then see a dot segment.
            _ if segment.starts_with(".;") || segment.starts_with("..;") => {
                return Err(BadPath::Ambiguous);
            }
            _ => {
                normal.push('/');
                normal.push_str(segment);
            }
        }
    }
    if ends_in_slash {
        normal.push('/');
    }
    Ok(normal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dot_segments_and_double_slashes_are_removed_before_matching() {
        for (raw, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/../../etc", "/etc"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("//admin", "/admin"),
            ("/a//b///", "/a/b/"),
            ("/..a/.b/c..", "/..a/.b/c.."),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/%7euser/%41%2b%c3%bc", "/~user/A%2B%C3%BC"),
            ("/%252e%252e/a", "/%252e%252e/a"),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn what_servers_disagree_on_is_refused() {
        for (raw, why) in [
            ("", BadPath::Relative),
            ("*", BadPath::Relative),
            ("a/b", BadPath::Relative),
            ("/a%2fb", BadPath::Ambiguous),
            ("/a%5Cb", BadPath::Ambiguous),
            ("/a\\b", BadPath::Ambiguous),
            ("/a%00", BadPath::Ambiguous),
            ("/a/..;/b", BadPath::Ambiguous),
            ("/a/%2e%2e;x=1/b", BadPath::Ambiguous),
            ("/a%", BadPath::Encoding),
            ("/a%4", BadPath::Encoding),
            ("/a%zz", BadPath::Encoding),
            ("/a%+1", BadPath::Encoding),
            ("/a%4\u{fc}", BadPath::Encoding),
        ] {
            assert_eq!(normalise(raw), Err(why), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_has_one_spelling_and_stays_below_the_root(
            raw in "/([a-b./;%]|%2[eEfF5]|%41){0,24}"
        ) {
            if let Ok(normal) = normalise(&raw) {
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!normal.contains("//"));
                prop_assert!(normal.split('/').all(|s| s != "." && s != ".."));
                let twice = normalise(&normal);
                prop_assert_eq!(twice.as_deref(), Ok(&*normal));
            }
        }

        #[test]
        fn no_input_panics(raw in "\\PC{0,40}") {
            let _ = normalise(&raw);
        }
    }
}
