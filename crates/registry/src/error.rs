use std::sync::Arc;

use gusset_call::BoxError;
use thiserror::Error;

/// What a registry cannot do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No instance of the service is registered.
    #[error("no service {service} is registered")]
    NoSuchService {
        /// Name of the service.
        service: Arc<str>,
    },
    /// The service has no instance of this id; a heartbeat that meets it must register again.
    #[error("service {service} has no instance {id}")]
    NoSuchInstance {
        /// Name of the service.
        service: Arc<str>,
        /// Id of the instance.
        id: Arc<str>,
    },
    /// The service has instances, but none that can take a call.
    #[error("service {service} has no healthy instance")]
    NoHealthyInstance {
        /// Name of the service.
        service: Arc<str>,
    },
    /// A younger run of the instance is registered; what this one says does not count any more.
    #[error("instance {id} of service {service} is registered by a younger run of it")]
    Superseded {
        /// Name of the service.
        service: Arc<str>,
        /// Id of the instance.
        id: Arc<str>,
    },
    /// The instance says something of itself that cannot be; see [`Instance::validate`](crate::Instance::validate). Nothing was changed.
    #[error("{field} {value:?} {reason}")]
    Invalid {
        /// What is wrong.
        field: &'static str,
        /// What it says, or the beginning of that.
        value: String,
        /// Why that cannot be.
        reason: &'static str,
    },
    /// The registry is at its bound and takes no new instance. Those it has can still register again.
    #[error("the registry holds {capacity} instances and takes no more")]
    Full {
        /// The bound, in instances.
        capacity: usize,
    },
    /// The registry could not be asked, or did not answer in time. It may or may not have done what it was asked to.
    #[error("the registry is unavailable")]
    Unavailable(#[source] BoxError),
    /// The registry answered, and will not do it: it wants another token, has no room, or does not understand. The source says which.
    #[error("the registry refuses")]
    Refused(#[source] BoxError),
}

impl Error {
    /// Whether the registry knows nothing of the instance it was asked about.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NoSuchService { .. } | Self::NoSuchInstance { .. })
    }

    /// Whether the registry did answer, and will not have the instance as things are.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Superseded { .. } | Self::Invalid { .. } | Self::Full { .. } | Self::Refused(_)
        )
    }
}
