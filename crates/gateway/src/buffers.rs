//! Memory that connections read into while they have something to read, and share while they have not: most connections are idle most of the time.

use std::cell::RefCell;

use bytes::BytesMut;

/// Buffers kept for each thread, and how large they may be.
const KEPT: usize = 64;
const LARGEST: usize = 16 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// One that somebody else has done with, or an empty one.
pub(crate) fn take() -> BytesMut {
    SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

/// For whoever reads next on this thread, if nothing is in it.
pub(crate) fn give(buffer: &mut BytesMut) {
    if !buffer.is_empty() || buffer.capacity() == 0 {
        return;
    }
    let buffer = std::mem::take(buffer);
    // While a thread ends, its connections may still end, and nobody reads any more.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT && buffer.capacity() <= LARGEST {
            spare.push(buffer);
        }
    });
}
