mod candidates;
mod endpoints;
mod future;
mod least_loaded;
mod load;
mod make;
mod protocol;
mod round_robin;
mod service;

pub use candidates::{Candidates, Pick};
pub use endpoints::Endpoint;
pub use future::ResponseFuture;
pub use least_loaded::LeastLoaded;
pub use make::{Eligible, MakeEndpoint};
#[cfg(feature = "http")]
pub use protocol::Http;
pub use protocol::{Opaque, Protocol};
pub use round_robin::RoundRobin;
pub use service::Balance;
