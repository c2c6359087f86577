use prost_reflect::MethodDescriptor;

/// A method of gRPC that a [`Route`](crate::Route) asks for in the name of clients that send JSON; from [`Descriptors`](crate::Descriptors).
///
/// | of the request | becomes |
/// |---|---|
/// | a parameter of the route's path | the field of that name, or the one that [is said](Self::parameter) |
/// | the body, JSON | the message, or one [field](Self::body) of it |
/// | the query | fields that neither of these has: `?page_size=10&order.kind=GIFT&tag=a&tag=b` |
/// | header fields | metadata |
///
/// JSON is protobuf's own (ProtoJSON): `snake_case` or `lowerCamelCase` names, 64-bit numbers as strings, bytes in base64, timestamps and durations as text. What is unknown, does not fit or is said twice is
/// answered with 400 and its place; a body that is no JSON by its media type with 415, so that no web page can send one without a preflight.
///
/// | the answer of the method | becomes |
/// |---|---|
/// | a message and OK | 200 with JSON; header fields but those of gRPC |
/// | a stream of messages | a line of JSON each (`application/x-ndjson`), or an event each if the client accepts `text/event-stream`; each goes out as it comes in |
/// | a status | a problem with its message and its name as `code`, under the status that `google.rpc.Code` has in HTTP |
/// | a status behind messages of a stream | the body breaks off; of events, one more of type `error` with the problem |
///
/// Of a method that takes a stream, the body is JSON as well, value after value (`application/x-ndjson`): each goes on as it comes in, and the end of the body is the end of the stream. Over HTTP/2 both directions
/// flow at once.
///
/// By GET, PUT and DELETE, and where the descriptor says that the method is idempotent, a call may be tried again as such a request may, unless it answers with a stream.
#[derive(Clone, Debug)]
pub struct GrpcMethod {
    pub(super) method: MethodDescriptor,
    /// Fields that are made of the path, if it is not each parameter for itself.
    pub(super) paths: Option<Vec<(String, Vec<Piece>)>>,
    /// Parameters that are a field of another name.
    pub(super) renamed: Vec<(Box<str>, Box<str>)>,
    pub(super) body: BodyField,
    pub(super) response_body: Option<Box<str>>,
    pub(super) defaults: bool,
    pub(super) max_message: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BodyField {
    /// All of the message for requests that may have a body, or nothing.
    ByMethod,
    Nothing,
    All,
    Field(Box<str>),
}

/// What a field that stands in the path is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    Parameter(String),
}

impl GrpcMethod {
    pub(super) fn new(method: MethodDescriptor) -> Self {
        Self {
            method,
            paths: None,
            renamed: Vec::new(),
            body: BodyField::ByMethod,
            response_body: None,
            defaults: false,
            max_message: 4 * 1024 * 1024,
        }
    }

    /// What the route's path calls `parameter` is this field, as `order.id`. Default: the field of the same name.
    #[must_use]
    pub fn parameter(mut self, parameter: impl Into<Box<str>>, field: impl Into<Box<str>>) -> Self {
        self.renamed.push((parameter.into(), field.into()));
        self
    }

    /// The field of the message that the body of a request is; `*` for all of the message. Default `*` for POST, PUT and PATCH.
    #[must_use]
    pub fn body(mut self, field: impl Into<Box<str>>) -> Self {
        let field = field.into();
        self.body = if &*field == "*" { BodyField::All } else { BodyField::Field(field) };
        self
    }

    pub(super) fn no_body(mut self) -> Self {
        self.body = BodyField::Nothing;
        self
    }

    pub(super) fn paths(mut self, fields: Vec<(String, Vec<Piece>)>) -> Self {
        self.paths = Some(fields);
        self
    }

    /// The field of the method's message that is the answer. Default: all of it.
    #[must_use]
    pub fn response_body(mut self, field: impl Into<Box<str>>) -> Self {
        self.response_body = Some(field.into());
        self
    }

    /// Fields with their default value are in answers as well. Default no, as in ProtoJSON.
    #[must_use]
    pub const fn print_defaults(mut self) -> Self {
        self.defaults = true;
        self
    }

    /// How many bytes a message of the method may have, and one value of a body that is a stream; more is 502 or 413. Default 4 MiB, as of gRPC's own clients.
    #[must_use]
    pub const fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }
}
