use bytes::BytesMut;

use crate::hints::Hints;

/// What a client is told before its answer.
#[derive(Default)]
pub(super) struct Before {
    /// What was not written yet.
    pub(super) bytes: BytesMut,
    pub(super) hints: Option<Hints>,
}

impl Before {
    pub(super) fn gather(&mut self) {
        if let Some(hints) = &self.hints {
            self.bytes.unsplit(hints.take());
        }
    }
}
