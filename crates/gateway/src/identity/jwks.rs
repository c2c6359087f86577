//! Sets of keys (RFC 7517, 5), from a file or from the issuer.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use gusset_call::BoxError;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::key::{Jwk, JwtKey};

/// What a set may have, in bytes and in keys.
pub(super) const LARGEST: usize = 1024 * 1024;
const MOST: usize = 100;

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// Where a set comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    File,
    /// Whoever can read it could sign with a secret in it.
    Afar,
}

/// The keys that can be used; others are for somebody else (RFC 7517, 5).
pub(super) fn parse(set: &[u8], from: From) -> Result<Vec<JwtKey>, JwksError> {
    let Set { keys } = serde_json::from_slice(set).map_err(|_| JwksError::Malformed)?;
    if keys.len() > MOST {
        return Err(JwksError::Large);
    }
    let key = |jwk| serde_json::from_value::<Jwk>(jwk).ok()?.into_key().ok();
    let mut keys: Vec<JwtKey> = keys.into_iter().filter_map(key).collect();
    keys.retain(|key| from == From::File || !key.is_secret());
    if keys.is_empty() { Err(JwksError::Empty) } else { Ok(keys) }
}

pub(super) fn read(path: &Path) -> Result<Vec<JwtKey>, JwksError> {
    let mut set = Vec::new();
    File::open(path)?.take(LARGEST as u64 + 1).read_to_end(&mut set)?;
    if set.len() > LARGEST {
        return Err(JwksError::Large);
    }
    parse(&set, From::File)
}

/// Why a set of keys cannot be used. It quotes nothing of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JwksError {
    /// It cannot be read.
    #[error("the set of keys cannot be read")]
    Io(#[from] io::Error),
    /// It is no JSON object with a list `keys`.
    #[error("the set of keys is malformed")]
    Malformed,
    /// It has more than 1 MiB, or more than 100 keys.
    #[error("the set of keys is too large")]
    Large,
    /// It has no key that could be used. An issuer that withdraws its last key looks like one that is broken, so the old ones stay until they are too old.
    #[error("the set has no key that can be used")]
    Empty,
    /// This is no address to fetch keys from.
    #[error(
        "keys are fetched from http://host/path, or with the certificates of authorities from https://host/path"
    )]
    Url,
    /// The certificates of authorities cannot be used.
    #[error("the certificates of authorities cannot be used")]
    Authorities(#[source] BoxError),
}
