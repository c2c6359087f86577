//! The messages around spans, logs and metrics: who sent them.

use super::proto::Message;
use crate::telemetry::resource::Resource;

/// An attribute whose value is a text: the content of a message `KeyValue`.
pub(super) fn attribute(pair: &mut Message, key: &str, value: &str) {
    pair.text(1, key).message(2, |to| {
        to.text(1, value);
    });
}

/// `ResourceSpans`, `ResourceLogs` or `ResourceMetrics`, which are alike: `items` are the fields 2 of the scope within.
pub(super) fn of_resource(request: &mut Message, resource: &Resource, service: &str, items: &[u8]) {
    request.message(1, |of_resource| {
        of_resource.message(1, |to| {
            to.message(1, |pair| attribute(pair, "service.name", service));
            for (key, value) in &resource.attributes {
                to.message(1, |pair| attribute(pair, key, value));
            }
        });
        of_resource.message(2, |of_scope| {
            of_scope.message(1, |scope| {
                scope.text(1, "gusset-sidecar").text(2, env!("CARGO_PKG_VERSION"));
            });
            of_scope.raw(items);
        });
    });
}
