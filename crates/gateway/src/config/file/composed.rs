//! Routes whose answer is made of others.

use std::path::PathBuf;

use serde_json::Value as Json;

use crate::config::{Fields, Named, Place, Placed, Schema, Section, Setting, Size, Span, Value};

/// One request becomes several.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct FanOutSection {
    pub(in crate::config) branches: Vec<BranchSection>,
    pub(in crate::config) max_body: Option<Size>,
    pub(in crate::config) missing_as: Option<String>,
}

impl Section for FanOutSection {
    const NAME: &'static str = "fan_out";
    const ABOUT: &'static str = "One request becomes several at once, whose answers become one JSON object. It takes GET and HEAD alone.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let branches = fields.required("branches", "The calls, in the order of the answer.");
        let max_body = fields.optional(
            "max_body",
            "How large the answer of a branch may be; a larger one has failed. Default 1MiB.",
        );
        let missing_as = fields
            .optional("missing_as", "The member that names what is missing. Default missing.");
        Some(Self { branches: branches?, max_body, missing_as })
    }
}

/// One of the calls.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct BranchSection {
    pub(in crate::config) name: String,
    pub(in crate::config) to: Placed<String>,
    pub(in crate::config) path: String,
    pub(in crate::config) query: Vec<String>,
    pub(in crate::config) timeout: Option<Span>,
    pub(in crate::config) optional: bool,
    pub(in crate::config) at: Option<String>,
    pub(in crate::config) flat: bool,
}

impl Section for BranchSection {
    const NAME: &'static str = "branch";
    const ABOUT: &'static str = "One of the calls that a request becomes.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required("name", "The member of the answer that it is.");
        let to = fields.required("to", "The upstream, by its name here.");
        let path = fields.required(
            "path",
            "Where it is asked, with a query if it has one; {name} is a parameter of the route's path.",
        );
        let query =
            fields.list("query", "Parameters of the client's query that go on. Default none.");
        let timeout =
            fields.optional("timeout", "How long it may take. Default, and most, the route's.");
        let optional =
            fields.flag("optional", "The answer is given without it if need be. Default no.");
        let at = fields.optional(
            "at",
            "Only this part of what it answers, a JSON pointer as /data/items. Default all.",
        );
        let flat = fields
            .flag("flat", "The members of its answer stand in the whole themselves. Default no.");
        Some(Self { name: name?, to: to?, path: path?, query, timeout, optional, at, flat })
    }
}

/// Clients that send JSON ask a service that speaks gRPC.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct GrpcSection {
    pub(in crate::config) descriptors: Placed<Followed>,
    pub(in crate::config) of: GrpcOf,
    pub(in crate::config) parameters: Vec<Named<String>>,
    pub(in crate::config) body: Option<String>,
    pub(in crate::config) response_body: Option<String>,
    pub(in crate::config) print_defaults: bool,
    pub(in crate::config) max_message: Option<Size>,
    pub(in crate::config) place: Place,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum GrpcOf {
    Method(Placed<String>),
    /// All methods with an annotation, each at its own path.
    Service(Placed<String>),
}

impl Section for GrpcSection {
    const NAME: &'static str = "grpc";
    const ABOUT: &'static str = "Clients that send JSON ask a service that speaks gRPC.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let descriptors = fields.required(
            "descriptors",
            "A file that protoc --include_imports --descriptor_set_out=FILE writes, or buf build -o FILE. The gateway follows it.",
        );
        let method =
            fields.optional("method", "The method, shop.v1.Orders/Get; the route says its path.");
        let service = fields.optional(
            "service",
            "A service, shop.v1.Orders: each google.api.http annotation of its methods is a route, which has the other settings of this one. Then the route has no path and no methods.",
        );
        fields.one_of(&["method", "service"]);
        let parameters = fields.named(
            "parameters",
            "Parameters of the path that are a field of another name. Default the field of the same name.",
        );
        let body = fields.optional(
            "body",
            "The field that the body is; * for the whole message. Default * for POST, PUT and PATCH.",
        );
        let response_body = fields
            .optional("response_body", "The field of the answer that is sent. Default all of it.");
        let print_defaults = fields.flag(
            "print_defaults",
            "Fields with their default value are in answers as well. Default no.",
        );
        let max_message =
            fields.optional("max_message", "How large a message may be. Default 4MiB.");
        for name in ["parameters", "body", "response_body"] {
            if fields.has(name) && fields.has("service") {
                fields.wrong(name, "the annotations of the service say it; leave it out");
            }
        }
        let of = match (method, service) {
            (Some(method), _) => GrpcOf::Method(method),
            (None, service) => GrpcOf::Service(service?),
        };
        Some(Self {
            descriptors: descriptors?,
            of,
            parameters,
            body,
            response_body,
            print_defaults,
            max_message,
            place: fields.place(""),
        })
    }
}

/// The path of a file whose changes are changes of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Followed(pub(in crate::config) PathBuf);

impl Setting for Followed {
    fn read(value: &Value<'_>) -> Option<Self> {
        let path = PathBuf::read(value)?;
        value.document.files.borrow_mut().push(path.clone());
        Some(Self(path))
    }

    fn describe(schema: &mut Schema) -> Json {
        PathBuf::describe(schema)
    }
}
