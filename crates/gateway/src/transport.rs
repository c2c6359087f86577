//! Connections to the instances of upstreams: HTTP/1.1, each with one owner at a time and no task of its own.
//!
//! A call takes a connection out of the [`pool`], or makes one; writes the head ([`request_head`]) and the body ([`sending`]) while it waits for the
//! answer's head ([`answer_head`]), all in one future ([`exchange`]). The connection then belongs to the body of the answer ([`answer_body`], [`decoder`]), which hands it back
//! when it has ended. Whoever drops one of them in the middle closes the connection with a reset, so that no instance takes a part for the whole.
//! What both sides want to be another protocol's, leaves HTTP by a tunnel ([`upgrade`]).

mod answer_body;
mod answer_head;
mod connection;
mod decoder;
mod error;
mod exchange;
mod line;
mod pool;
mod request_head;
mod sending;
mod upgrade;

pub(crate) use answer_body::AnswerBody;
pub(crate) use answer_head::{decimal, is_kept};
pub(crate) use decoder::{Decoded, Decoder};
pub(crate) use error::TransportError;
pub(crate) use exchange::Exchange;
pub(crate) use line::Line;
pub(crate) use pool::Pool;
pub(crate) use request_head::{Framing, put_field, put_length};
pub(crate) use sending::Sending;
pub(crate) use upgrade::{Switched, Wanted};

#[cfg(test)]
mod tests;
