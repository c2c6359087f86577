//! Connections to the instances of upstreams.
//!
//! By HTTP/1.1 each has one owner at a time and no task of its own. A call takes a connection out of the [`pool`], or makes one ([`dial`]); writes the head ([`request_head`]) and the
//! body ([`sending`]) while it waits for the answer's head ([`answer_head`]), all in one future ([`exchange`]). The connection then belongs to the body of the answer ([`h1_body`],
//! [`decoder`]), which hands it back when it has ended. Whoever drops one of them in the middle closes the connection with a reset, so that no instance takes a part for the whole.
//! What both sides want to be another protocol's, leaves HTTP by a tunnel ([`upgrade`]).
//!
//! By HTTP/2 many calls share a connection, which a task drives ([`multiplex`]). A call takes a stream of it ([`h2_exchange`]), and sends its body ([`upload`]) in the same future; the body
//! of the answer ([`h2_body`]) holds the stream.

mod answer_body;
mod answer_head;
mod connection;
mod decoder;
mod dial;
mod error;
mod exchange;
mod goodbye;
mod h1_body;
mod line;
mod places;
mod pool;
mod request_head;
mod sending;
mod settings;
mod upgrade;

#[cfg(feature = "tls")]
mod tls;

#[cfg(feature = "http2")]
mod h2_body;
#[cfg(feature = "http2")]
mod h2_exchange;
#[cfg(feature = "http2")]
mod h2_head;
#[cfg(feature = "http2")]
mod multiplex;
#[cfg(feature = "http2")]
mod upload;

pub use settings::{Connections, HostHeader, Transport};
#[cfg(feature = "tls")]
pub use tls::{UpstreamTls, UpstreamTlsFiles};

pub(crate) use answer_body::AnswerBody;
pub(crate) use answer_head::{decimal, is_kept};
pub(crate) use decoder::{Decoded, Decoder};
pub(crate) use error::TransportError;
pub(crate) use line::Line;
pub(crate) use pool::Pool;
pub(crate) use request_head::{Expects, Framing, put_field, put_length};
pub(crate) use sending::Sending;
pub(crate) use upgrade::{Switched, Wanted};

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(feature = "http2")]
#[cfg(test)]
mod h2_tests;
#[cfg(test)]
mod tests;
