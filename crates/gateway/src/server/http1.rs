//! HTTP/1.1 to clients, by a codec of our own: what can be read in two ways is refused, and nothing is copied or boxed on the way.
//!
//! A connection is one task, which reads a head ([`request_head`]), runs the service and writes its answer ([`answer_head`]), one request after the other
//! ([`connection`]). The body of a request takes the reading half along and gives it back at its end ([`upload`]). A request that asks for another protocol, and all
//! that follows on its connection, is hyper's.

mod before;
mod connection;
mod ending;
mod idle;

mod answer_head;
mod date;
mod reader;
mod refusal;
mod request_head;
mod upload;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub(super) use connection::{Ended, Manner, serve};
pub(super) use upload::Upload;
