//! What can go wrong at the start.

use std::{borrow::Cow, fmt};

use gusset_call::BoxError;

/// Telemetry could not be set up.
#[derive(Debug)]
pub struct InitError {
    what: Cow<'static, str>,
    cause: Option<BoxError>,
}

impl InitError {
    pub(super) fn new(what: &'static str, cause: impl Into<BoxError>) -> Self {
        Self { what: what.into(), cause: Some(cause.into()) }
    }

    /// A variable that has a bad value, which is not told: it may be a secret.
    pub(super) fn variable(name: &'static str, why: &'static str) -> Self {
        Self { what: format!("{name} {why}").into(), cause: None }
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot set up telemetry: {}", self.what)
    }
}

impl std::error::Error for InitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&**self.cause.as_ref()?)
    }
}
