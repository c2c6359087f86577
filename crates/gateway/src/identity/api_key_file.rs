//! Keys as a file has them.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::{Duration, SystemTime},
};

use thiserror::Error;

use super::ApiKey;

const FIRST_LINE: &str = "gusset-api-keys ";

/// What a file may have; 100,000 keys with their scopes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Why a file with API keys cannot be used. It quotes no line of the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApiKeyFileError {
    /// It cannot be read.
    #[error("the file with API keys cannot be read")]
    Io(#[from] io::Error),
    /// Its first line is not `gusset-api-keys 1`, so it may be that of a newer release.
    #[error(
        "the first line of a file with API keys is \"gusset-api-keys 1\"; a newer one is not understood"
    )]
    Version,
    /// A line is wrong.
    #[error("line {line} of the file with API keys: {reason}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong, or would be right.
        reason: &'static str,
    },
}

pub(super) fn read(path: &Path) -> Result<Vec<ApiKey>, ApiKeyFileError> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 16 MiB").into());
    }
    parse(&text)
}

pub(super) fn parse(text: &str) -> Result<Vec<ApiKey>, ApiKeyFileError> {
    let mut lines = text.lines().enumerate();
    let version = lines.next().and_then(|(_, line)| line.strip_prefix(FIRST_LINE));
    if version.map(str::trim) != Some("1") {
        return Err(ApiKeyFileError::Version);
    }
    let mut keys: Vec<ApiKey> = Vec::new();
    for (at, line) in lines {
        let line_is = |reason| ApiKeyFileError::Line { line: at + 1, reason };
        let mut words = line.split_ascii_whitespace();
        let Some(id) = words.next().filter(|word| !word.starts_with('#')) else { continue };
        let hash = words.next().and_then(hash).ok_or("after the id comes its SHA-256: 64 digits");
        let mut key = ApiKey::hashed(id, hash.map_err(line_is)?);
        for word in words {
            key = with(key, word).map_err(line_is)?;
        }
        keys.push(key);
    }
    Ok(keys)
}

fn with(key: ApiKey, word: &str) -> Result<ApiKey, &'static str> {
    let (name, value) = word.split_once('=').unwrap_or_default();
    let list = || value.split(',').filter(|member| !member.is_empty());
    Ok(match name {
        "scopes" => key.scopes(list()),
        "roles" => key.roles(list()),
        "quota" => key.quota_key(value),
        "expires" => {
            let seconds = value.parse().map(Duration::from_secs).ok();
            let at = seconds.and_then(|span| SystemTime::UNIX_EPOCH.checked_add(span));
            key.expires(at.ok_or("expires= takes the seconds since 1970")?)
        }
        _ => return Err("after the SHA-256 come scopes=, roles=, expires=, quota="),
    })
}

fn hash(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        let pair = digits.get(2 * at..2 * at + 2)?;
        // Which would take a sign.
        pair.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "secret".
    const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    #[test]
    fn a_file_has_a_key_on_each_line() {
        let text = format!(
            "gusset-api-keys 1\n# of billing\nbilling {HASH} scopes=a,b roles=c expires=5 quota=q\n\n"
        );
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        let key = ApiKey::new("billing", "secret").scopes(["a", "b"]).roles(["c"]);
        assert_eq!(parse(&text).unwrap(), [key.expires(at).quota_key("q")]);
        assert_eq!(parse("gusset-api-keys 1").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line_and_not_shown() {
        for text in ["", "billing x", "gusset-api-keys 2\n", "gusset-api-keys 10\n"] {
            assert!(matches!(parse(text), Err(ApiKeyFileError::Version)), "{text}");
        }
        let signed = format!("a +{}", &HASH[1..]);
        let (unknown, late) = (format!("a {HASH} scope=b"), format!("a {HASH} expires=never"));
        for line in ["a", "a secret", &signed, &unknown, &late] {
            let error = parse(&format!("gusset-api-keys 1\n#\n{line}\n")).unwrap_err();
            assert!(matches!(error, ApiKeyFileError::Line { line: 3, .. }), "{line}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
