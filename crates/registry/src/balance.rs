mod service;

mod future;
mod make;
mod protocol;
#[cfg(feature = "http")]
mod to_instance;

mod candidates;
mod consistent;
mod least_loaded;
mod random;
mod round_robin;

mod ejection;
mod fleet;

mod chooser;

mod connector;

#[cfg(feature = "tower")]
mod discover;
#[cfg(feature = "tower")]
mod follow;

mod choice;
mod core;
mod endpoint;
mod hub;
mod set;
mod stale;

mod connection;
mod flight;
mod load;
mod state;

mod ejector;
mod failures;
mod hash;
mod latency;
mod shares;

pub use candidates::{Candidates, Needs, Pick};
pub use chooser::{Chooser, Chosen};
pub use connector::Connector;
pub use consistent::Consistent;
#[cfg(feature = "tower")]
pub use discover::Discovered;
pub use ejection::{Ejection, SuccessRate};
pub use endpoint::{BalanceStats, Endpoint};
pub use fleet::Fleet;
#[cfg(feature = "tower")]
pub use follow::{Followed, FollowedFuture, FollowedService, Follower};
pub use future::ResponseFuture;
pub use hash::hash_key;
pub use least_loaded::LeastLoaded;
pub use make::{Eligible, MakeEndpoint};
#[cfg(feature = "http")]
pub use protocol::Http;
pub use protocol::{Opaque, Protocol};
pub use random::Random;
pub use round_robin::{LocalRoundRobin, RoundRobin, WeightedRoundRobin};
pub use service::Balance;
#[cfg(feature = "http")]
pub use to_instance::ToInstance;
