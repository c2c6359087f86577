mod plain;

use std::str::FromStr;

use serde_json::{Value as Json, json};

use super::{
    ConfigError, Document, Place,
    document::{Entry, Kind, Node, below},
    schema::Schema,
};

/// What can stand in a file.
pub trait Setting: Sized {
    /// Reads it. `None` if it is wrong; then `value` was told why ([`Value::wrong`]), and reading goes on with the next, so that all errors are found at once.
    fn read(value: &Value<'_>) -> Option<Self>;

    /// How it is written, as a JSON Schema.
    fn describe(schema: &mut Schema) -> Json;
}

/// Something in a file: a text, a number, a list, a table.
#[derive(Clone, Debug)]
pub struct Value<'d> {
    pub(super) document: &'d Document,
    pub(super) node: &'d Node,
    pub(super) field: String,
}

impl<'d> Value<'d> {
    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> Place {
        self.document.place(self.node.span.start, self.field.clone())
    }

    /// Says what is wrong with it, and what would be right; what stands there is said before: `"ten" is no number; write 10`.
    pub fn wrong(&self, reason: &str) {
        // An error was told already.
        if matches!(self.node.kind, Kind::Broken) {
            return;
        }
        let found = match &self.node.kind {
            Kind::List(_) => "a list".to_owned(),
            Kind::Table(_) => "a table".to_owned(),
            _ => self.document.written(&self.node.span),
        };
        self.tell(self.place().error(format!("{found} {reason}")));
    }

    /// Tells of an error, here or elsewhere.
    pub fn tell(&self, error: ConfigError) {
        self.document.errors.borrow_mut().push(error);
    }

    /// The text, with variables filled in. `what` follows "is no", as in `a path; write "/a"`.
    #[must_use]
    pub fn text(&self, what: &str) -> Option<&'d str> {
        match &self.node.kind {
            Kind::Text { text, .. } => Some(text),
            _ => self.no(what),
        }
    }

    /// The text, as something that can be read from one.
    #[must_use]
    pub fn parsed<T: FromStr>(&self, what: &str) -> Option<T> {
        match self.text(what)?.parse() {
            Ok(parsed) => Some(parsed),
            Err(_) => self.no(what),
        }
    }

    /// One of these texts, and what it stands for.
    #[must_use]
    pub fn one_of<T: Clone>(&self, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        let names = names.join(", ");
        if let Kind::Text { text, .. } = &self.node.kind {
            if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text.as_str()) {
                return Some(choice.clone());
            }
        }
        self.wrong(&format!("is none of {names}"));
        None
    }

    /// Whether it is a table.
    #[must_use]
    pub const fn is_table(&self) -> bool {
        matches!(self.node.kind, Kind::Table(_))
    }

    /// Whether it is a text.
    #[must_use]
    pub const fn is_text(&self) -> bool {
        matches!(self.node.kind, Kind::Text { .. })
    }

    /// Whether it is `true` or `false`, if it is one of these.
    #[must_use]
    pub const fn flag(&self) -> Option<bool> {
        match self.node.kind {
            Kind::Flag(flag) => Some(flag),
            _ => None,
        }
    }

    /// The members of a list.
    #[must_use]
    pub fn members(&self) -> Option<Vec<Value<'d>>> {
        let Kind::List(nodes) = &self.node.kind else { return self.no("list; write […]") };
        let member = |(at, node): (usize, &'d Node)| Value {
            document: self.document,
            node,
            field: format!("{}[{at}]", self.field),
        };
        Some(nodes.iter().enumerate().map(member).collect())
    }

    /// The names in a table, with their values.
    #[must_use]
    pub fn entries(&self) -> Option<Vec<(&'d str, Value<'d>)>> {
        let entries = self.table()?;
        Some(entries.iter().map(|entry| (entry.key.as_str(), self.below(entry))).collect())
    }

    pub(super) fn table(&self) -> Option<&'d [Entry]> {
        match &self.node.kind {
            Kind::Table(entries) => Some(entries),
            _ => self.no("table; write { … }, or [a.header] above its fields"),
        }
    }

    pub(super) fn below(&self, entry: &'d Entry) -> Value<'d> {
        let field = below(&self.field, &entry.key);
        Value { document: self.document, node: &entry.node, field }
    }

    pub(super) fn no<T>(&self, what: &str) -> Option<T> {
        self.wrong(&format!("is no {what}"));
        None
    }

    /// A whole number, also one that a variable holds.
    fn integer(&self, least: i64, most: i64) -> Option<i64> {
        let number = match &self.node.kind {
            Kind::Integer(number) => Some(*number),
            Kind::Text { text, filled: true } => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if (least..=most).contains(&number) => Some(number),
            Some(_) if most == i64::MAX => {
                self.wrong(&format!("is too little; at least {least} is needed"));
                None
            }
            Some(_) => {
                self.wrong(&format!("is not from {least} to {most}"));
                None
            }
            None => {
                self.no(&format!("whole number; write one, such as {}", least.max(10).min(most)))
            }
        }
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn read(value: &Value<'_>) -> Option<Self> {
        let members = value.members()?;
        // All are read, so that all errors are found.
        let read: Vec<_> = members.iter().map(T::read).collect();
        read.into_iter().collect()
    }

    fn describe(schema: &mut Schema) -> Json {
        json!({ "type": "array", "items": T::describe(schema) })
    }
}

/// One, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMore<T>(pub Vec<T>);

impl<T> Default for OneOrMore<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Setting> Setting for OneOrMore<T> {
    fn read(value: &Value<'_>) -> Option<Self> {
        match &value.node.kind {
            Kind::List(_) => Vec::read(value).map(Self),
            _ => T::read(value).map(|one| Self(vec![one])),
        }
    }

    fn describe(schema: &mut Schema) -> Json {
        json!({ "anyOf": [T::describe(schema), Vec::<T>::describe(schema)] })
    }
}

/// Something, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// What.
    pub value: T,
    /// Where.
    pub place: Place,
}

impl<T: Setting> Setting for Placed<T> {
    fn read(value: &Value<'_>) -> Option<Self> {
        T::read(value).map(|read| Self { value: read, place: value.place() })
    }

    fn describe(schema: &mut Schema) -> Json {
        T::describe(schema)
    }
}
