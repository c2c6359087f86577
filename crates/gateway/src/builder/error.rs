use thiserror::Error;

/// Why a gateway cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The path or the rewriting of a route makes no sense.
    #[error("route {path}: {reason}")]
    Path {
        /// The route's path.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Only chance could say which of this route and an earlier one takes a request, or one of them would never take any.
    #[error(
        "route {path}: an earlier route takes the same requests; tell them apart by path, method, host, condition or rank"
    )]
    Taken {
        /// The route's path.
        path: String,
    },
    /// [`Route::to`](crate::Route::to) is missing, or names no address.
    #[error("route {path} leads nowhere: to(…) names a service, or at least one address")]
    NoUpstream {
        /// The route's path.
        path: String,
    },
    /// The route is authenticated, and the gateway has no [`Authenticate`](crate::Authenticate).
    #[error(
        "route {path} is authenticated, but nothing says by what: give the gateway authenticate(…)"
    )]
    NoAuthenticate {
        /// The route's path.
        path: String,
    },
    /// What [`Builder::cors`](crate::Builder::cors) says makes no sense.
    #[error("cors: {reason}")]
    Cors {
        /// What is wrong.
        reason: String,
    },
}

impl BuildError {
    /// Without the route, which is named otherwise.
    #[cfg(feature = "config")]
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Path { reason, .. } | Self::Cors { reason } => reason.clone(),
            Self::Taken { .. } => {
                "an earlier route takes the same requests; tell them apart by path, method, host, condition or rank".into()
            }
            Self::NoUpstream { .. } => "it leads nowhere".into(),
            Self::NoAuthenticate { .. } => {
                "it asks who sends, and nothing tells; add [jwt], [api_keys] or [certificates]"
                    .into()
            }
        }
    }

    pub(super) fn path(path: &str, reason: impl Into<String>) -> Self {
        Self::Path { path: path.to_owned(), reason: reason.into() }
    }
}
