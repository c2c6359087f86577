use std::sync::LazyLock;

use bytes::Bytes;
use http::Request;

use super::{super::Composition, Transcoder};
use crate::{Descriptors, compose::fields::Unfit};

/// The methods of the shop of the tests.
static SHOP: LazyLock<Vec<Transcoder>> = LazyLock::new(|| {
    let set = Descriptors::from_bytes(include_bytes!("../../../tests/shop/shop.binpb"));
    let routes = set.ok().and_then(|set| set.routes("shop.v1.Orders", "orders").ok());
    let compiled = routes.into_iter().flatten().filter_map(|route| match &route.composition {
        Some(Composition::Grpc(grpc)) => Transcoder::compile(&route, grpc).ok(),
        _ => None,
    });
    compiled.collect()
});

/// A path with its query in the first line, and a body: each method of the shop takes it, or says what does not fit.
pub fn transcoded(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (target, body) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(request) = Request::builder().uri(target).body(()) else { return };
    let head = request.into_parts().0;
    assert!(!SHOP.is_empty());
    for transcoder in &*SHOP {
        match transcoder.message(&head, &Bytes::copy_from_slice(body.as_bytes())) {
            Ok(message) => assert!(serde_json::to_value(&message).is_ok(), "{text:?}"),
            Err(Unfit(why)) => assert!(!why.is_empty(), "{text:?}"),
        }
    }
}
