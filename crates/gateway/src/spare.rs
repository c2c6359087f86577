//! Maps of heads that are used again. A head lives for some microseconds between two sockets, and its maps are the largest memory that a plain request needs: too large
//! for what allocators keep at hand.

use std::{cell::RefCell, mem};

use http::{Extensions, HeaderMap, request, response};

/// Maps of each kind that are kept for each thread, and how many fields they may have room for: 80 KiB together. A thread works at one or two heads at a time.
const KEPT: usize = 16;
const MOST_FIELDS: usize = 48;
const MOST_EXTENSIONS: usize = 14;

thread_local! {
    static HEADERS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
    static EXTENSIONS: RefCell<Vec<Extensions>> = const { RefCell::new(Vec::new()) };
}

/// An empty map with room for so many fields.
pub(crate) fn headers(fields: usize) -> HeaderMap {
    let spare = HEADERS.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
    let mut headers = spare.unwrap_or_default();
    headers.reserve(fields);
    headers
}

/// An empty map.
pub(crate) fn extensions() -> Extensions {
    EXTENSIONS.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

/// For whoever reads the next head on this thread.
pub(crate) fn give_headers(headers: &mut HeaderMap) {
    let mut headers = mem::take(headers);
    if headers.capacity() == 0 || headers.capacity() > MOST_FIELDS {
        return;
    }
    headers.clear();
    // While a thread ends, heads may still end, and nobody reads any more.
    let _ = HEADERS.try_with(|spare| keep(&mut spare.borrow_mut(), headers));
}

/// The same.
pub(crate) fn give_extensions(extensions: &mut Extensions) {
    let mut extensions = mem::take(extensions);
    if extensions.len() > MOST_EXTENSIONS {
        return;
    }
    // Before all else, for what is in it is others', and may do what it likes when it is dropped.
    extensions.clear();
    let _ = EXTENSIONS.try_with(|spare| keep(&mut spare.borrow_mut(), extensions));
}

/// Of the head of a request that was written.
pub(crate) fn give_request(mut head: request::Parts) {
    give_headers(&mut head.headers);
    give_extensions(&mut head.extensions);
}

/// Of the head of an answer that was written.
pub(crate) fn give_response(mut head: response::Parts) {
    give_headers(&mut head.headers);
    give_extensions(&mut head.extensions);
}

fn keep<T>(spare: &mut Vec<T>, map: T) {
    if spare.len() < KEPT {
        spare.push(map);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::sync::Arc;

    #[test]
    fn what_is_used_again_is_empty_and_has_its_room() {
        let mut first = headers(20);
        first.append("cookie", HeaderValue::from_static("secret"));
        first.append("cookie", HeaderValue::from_static("other"));
        let room = first.capacity();
        give_headers(&mut first);
        let again = headers(1);
        assert!(again.is_empty() && again.get("cookie").is_none());
        assert_eq!(again.capacity(), room);

        let held = Arc::new(());
        let mut first = extensions();
        first.insert(held.clone());
        give_extensions(&mut first);
        assert_eq!(Arc::strong_count(&held), 1, "nothing is held");
        assert!(extensions().get::<Arc<()>>().is_none());
    }

    #[test]
    fn the_memory_that_is_kept_is_bounded() {
        for _ in 0..3 * KEPT {
            let mut large = HeaderMap::with_capacity(MOST_FIELDS + 1);
            give_headers(&mut large);
        }
        HEADERS.with(|spare| assert!(spare.borrow().is_empty(), "these are too large"));
        let many: Vec<_> = (0..3 * KEPT).map(|_| (headers(8), extensions())).collect();
        for (mut headers, mut extensions) in many {
            give_headers(&mut headers);
            give_extensions(&mut extensions);
        }
        HEADERS.with(|spare| assert_eq!(spare.borrow().len(), KEPT));
        EXTENSIONS.with(|spare| assert!(spare.borrow().len() <= KEPT));
    }

    #[test]
    fn what_is_dropped_with_a_head_may_give_one_back_itself() {
        #[derive(Clone)]
        struct Gives;
        impl Drop for Gives {
            fn drop(&mut self) {
                give_extensions(&mut extensions());
            }
        }
        let mut first = extensions();
        first.insert(Gives);
        give_extensions(&mut first);
        assert!(extensions().is_empty());
    }
}
