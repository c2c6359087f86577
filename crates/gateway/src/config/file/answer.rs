use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value as Json;

use crate::{
    FixedAnswer, Redirect,
    config::{Fields, Named, Schema, Section, Setting, Value},
};

/// Where clients are sent: a target, or a table.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct RedirectSection(pub(in crate::config) Redirect);

impl Section for RedirectSection {
    const NAME: &'static str = "redirect";
    const ABOUT: &'static str = "Clients are sent elsewhere.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let to: Option<String> = fields.required(
            "to",
            "A path, or https:// and a host; {name} is a parameter of the path, {request.path} all of it.",
        );
        let status: Option<u16> =
            fields.optional("status", "301, 302, 303, 307 or 308. Default 308, for good.");
        let without_query =
            fields.flag("without_query", "The query does not go along. Default no.");
        let status = status.map(|status| {
            if !matches!(status, 301..=303 | 307 | 308) {
                fields.wrong("status", "it redirects nobody; write 301, 302, 303, 307 or 308");
            }
            StatusCode::from_u16(status).unwrap_or(StatusCode::PERMANENT_REDIRECT)
        });
        let mut redirect = Redirect::permanent(to?);
        if let Some(status) = status {
            redirect = redirect.status(status);
        }
        Some(Self(if without_query { redirect.without_query() } else { redirect }))
    }
}

/// What a route answers itself.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct AnswerSection(pub(in crate::config) FixedAnswer);

impl Section for AnswerSection {
    const NAME: &'static str = "answer";
    const ABOUT: &'static str = "The gateway answers itself, always the same.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let status: Option<u16> = fields.optional("status", "Default 200.");
        let text: Option<String> = fields.optional("text", "A text, as text/plain.");
        let json: Option<String> =
            fields.optional("json", "A text that is JSON, as application/json.");
        let headers: Vec<Named<FieldValue>> = fields.named("headers", "More fields.");
        let code = StatusCode::from_u16(status.unwrap_or(200)).ok();
        if code.is_none_or(|code| code.is_informational()) {
            fields.wrong("status", "it is no status of an answer; write one from 200 to 599");
        }
        if text.is_some() && json.is_some() {
            fields.wrong("json", "text is there already; only one of them can be");
        }
        let mut answer = FixedAnswer::new(code?);
        for Named { name, place, value } in headers {
            match name.parse::<HeaderName>() {
                Ok(name) => answer = answer.header(name, value.0),
                Err(_) => fields.tell(place.error("it is no name of a header field")),
            }
        }
        let body = text.map(|text| (text, "text/plain; charset=utf-8"));
        if let Some((body, kind)) = body.or_else(|| json.map(|json| (json, "application/json"))) {
            let kind = HeaderValue::from_static(kind);
            answer = answer.header(header::CONTENT_TYPE, kind).body(Bytes::from(body));
        }
        Some(Self(answer))
    }
}

/// The value of a field.
struct FieldValue(HeaderValue);

impl Setting for FieldValue {
    fn read(value: &Value<'_>) -> Option<Self> {
        value.parsed("value of a header field; write a line of text").map(Self)
    }

    fn describe(schema: &mut Schema) -> Json {
        String::describe(schema)
    }
}
