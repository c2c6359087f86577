use crate::{
    Condition, HeaderEdits,
    config::{Fields, Named, OneOrMore, Place, Section},
};

/// What a request must say besides host, path and method.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct ConditionSection(pub(in crate::config) Condition);

impl Section for ConditionSection {
    const NAME: &'static str = "condition";
    const ABOUT: &'static str = "What a request must say besides host, path and method. With nothing more, that it is there.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let header: Option<String> = fields.optional("header", "A field of the head.");
        let query: Option<String> = fields.optional("query", "A parameter of the query.");
        let cookie: Option<String> = fields.optional("cookie", "A cookie.");
        fields.one_of(&["header", "query", "cookie"]);
        let is: Option<OneOrMore<String>> =
            fields.optional("is", "It is there once, and is this, or one of these.");
        let begins_with: Option<String> =
            fields.optional("begins_with", "It is there once, and begins so.");
        let has: Option<String> =
            fields.optional("has", "This is among the members of the field, as of Accept.");
        let absent = fields.flag("absent", "It is not there.");
        let wants = ["is", "begins_with", "has", "absent"];
        let there: Vec<_> = wants.iter().filter(|name| fields.has(name)).collect();
        if let [first, second, ..] = there[..] {
            fields.wrong(second, &format!("{first} is there already; only one of them can be"));
        }
        let of = match (header, query, cookie) {
            (Some(name), _, _) => Condition::header(name),
            (_, Some(name), _) => Condition::query(name),
            (_, _, Some(name)) => Condition::cookie(name),
            _ => return None,
        };
        Some(Self(match (is, begins_with, has) {
            (Some(values), _, _) => of.one_of(values.0),
            (_, Some(text), _) => of.begins_with(text),
            (_, _, Some(member)) => of.has(member),
            _ if absent => of.absent(),
            _ => of,
        }))
    }
}

/// What is changed in the fields of a head.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct EditsSection {
    set: Vec<Named<String>>,
    default: Vec<Named<String>>,
    add: Vec<Named<String>>,
    remove: Vec<String>,
    pub(in crate::config) place: Place,
}

impl EditsSection {
    pub(in crate::config) fn edits(&self) -> HeaderEdits {
        let mut edits = HeaderEdits::new();
        for name in &self.remove {
            edits = edits.remove(name);
        }
        for Named { name, value, .. } in &self.set {
            edits = edits.set(name, value);
        }
        for Named { name, value, .. } in &self.default {
            edits = edits.set_if_absent(name, value);
        }
        for Named { name, value, .. } in &self.add {
            edits = edits.add(name, value);
        }
        edits
    }
}

impl Section for EditsSection {
    const NAME: &'static str = "header_edits";
    const ABOUT: &'static str = "What is changed in the fields of a head, in this order: remove, set, default, add. {name} in a value is a parameter of the path; {request.host}, {request.path}, {request.header.NAME} and {client.address} are of the request.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            set: fields.named("set", "Fields that have these values, whatever they had."),
            default: fields
                .named("default", "Fields that have these values if they are not there."),
            add: fields.named("add", "Lines that are added."),
            remove: fields.list("remove", "Fields that are removed."),
            place: fields.place(""),
        })
    }
}
