//! How a connection ends.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    connection::{Connection, Ended, Turn},
    upload::Back,
};

/// How long a client that is told to go may still send, and how much. Closed at once, its connection would break before it has read what it was told.
const FAREWELL: Duration = Duration::from_secs(2);
const FAREWELL_BYTES: u64 = 1024 * 1024;

impl Connection {
    /// Ends the connection in a way that cannot be taken for the end of an answer.
    pub(super) fn reset(self) {
        let reader = match self.reading {
            Turn::Here(reader) => Some(reader),
            Turn::Unread(back) => back.map(Back::into_reader),
            Turn::Lent(home) => home.back().map(Back::into_reader),
        };
        if let Some(reader) = reader {
            reader.half.unsplit(self.write).reset();
        }
    }

    /// For another protocol, as if nothing were read yet.
    pub(super) fn upgrade(self, head: &[u8]) -> Ended {
        let Turn::Here(mut reader) = self.reading else { return Ended::Closed };
        let mut wire = reader.half.unsplit(self.write);
        let mut bytes = BytesMut::from(head);
        bytes.unsplit(reader.read.split());
        wire.unread(bytes.freeze());
        Ended::Upgrade(wire)
    }

    pub(super) async fn farewell(mut self) -> io::Result<Ended> {
        self.write.shutdown().await?;
        let rest = match self.reading {
            Turn::Unread(Some(back)) => back.into_reader(),
            Turn::Here(reader) => reader,
            Turn::Unread(None) | Turn::Lent(_) => return Ok(Ended::Closed),
        };
        let mut rest = rest.half.take(FAREWELL_BYTES);
        let mut nowhere = tokio::io::sink();
        let gone = tokio::io::copy(&mut rest, &mut nowhere);
        let _ = timeout(FAREWELL, gone).await;
        Ok(Ended::Closed)
    }
}
