use serde_json::{Map, Value as Json, json};

use super::{
    ConfigError, Place, Setting, Value,
    document::{Entry, below},
    schema::Schema,
};

/// A table with known fields. Others are errors.
///
/// One function names the fields: it reads them from a file, and is asked without one for the schema. It must name all fields whatever it finds, and
/// return `None` only after that.
pub trait Section: Sized {
    /// Its name in the schema.
    const NAME: &'static str;
    /// What it is for, in the schema.
    const ABOUT: &'static str;

    /// Names its fields, and reads them.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;
}

/// The fields of a [`Section`], while they are read or described. `about` is what the schema says of a field: a sentence or two, with its default.
#[derive(Debug)]
pub struct Fields<'f>(Mode<'f>);

#[derive(Debug)]
enum Mode<'f> {
    Reading { value: &'f Value<'f>, table: &'f [Entry], known: Vec<&'static str> },
    Describing { schema: &'f mut Schema, properties: Map<String, Json>, required: Vec<Json> },
}

/// An entry of a table whose names are the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T> {
    /// What it is called.
    pub name: String,
    /// Where its name stands.
    pub place: Place,
    /// What it is.
    pub value: T,
}

impl Fields<'_> {
    /// A field that must be there.
    pub fn required<T: Setting>(&mut self, name: &'static str, about: &str) -> Option<T> {
        match self.field(name, about, T::describe) {
            Some(value) => T::read(&value),
            None => {
                match &mut self.0 {
                    Mode::Reading { .. } => self.missing(name),
                    Mode::Describing { required, .. } => required.push(name.into()),
                }
                None
            }
        }
    }

    /// Tells that a field is missing, where another one says that it is needed.
    pub fn missing(&self, name: &str) {
        if let Mode::Reading { value, .. } = &self.0 {
            let place = Place { field: below(&value.field, name), ..value.place() };
            value.tell(place.error("it is missing"));
        }
    }

    /// A field that may be there.
    pub fn optional<T: Setting>(&mut self, name: &'static str, about: &str) -> Option<T> {
        self.field(name, about, T::describe).and_then(|value| T::read(&value))
    }

    /// A list that may be there; an empty one if not.
    pub fn list<T: Setting>(&mut self, name: &'static str, about: &str) -> Vec<T> {
        self.optional(name, about).unwrap_or_default()
    }

    /// What is off unless it is `true`.
    pub fn flag(&mut self, name: &'static str, about: &str) -> bool {
        self.optional(name, about).unwrap_or(false)
    }

    /// A table whose names are the user's, in the order of the file.
    pub fn named<T: Setting>(&mut self, name: &'static str, about: &str) -> Vec<Named<T>> {
        let describe = |schema: &mut Schema| json!({ "type": "object", "additionalProperties": T::describe(schema) });
        let Some(value) = self.field(name, about, describe) else { return Vec::new() };
        let Some(entries) = value.table() else { return Vec::new() };
        let named = entries.iter().filter_map(|entry| {
            let field = value.below(entry);
            let place = value.document.place(entry.key_span.start, field.field.clone());
            Some(Named { name: entry.key.clone(), place, value: T::read(&field)? })
        });
        let mut named: Vec<_> = named.collect();
        named.sort_by_key(|entry| (entry.place.line, entry.place.column));
        named
    }

    /// Where the field stands, or if it is not there the section.
    #[must_use]
    pub fn place(&self, name: &str) -> Place {
        match &self.0 {
            Mode::Reading { value, table, .. } => match find(table, name) {
                Some(entry) => value.below(entry).place(),
                None => value.place(),
            },
            Mode::Describing { .. } => {
                Place { file: "".into(), line: 0, column: 0, field: name.to_owned() }
            }
        }
    }

    /// Whether the field is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        matches!(&self.0, Mode::Reading { table, .. } if find(table, name).is_some())
    }

    /// Says what is wrong with a field, besides how it is written.
    pub fn wrong(&self, name: &str, reason: &str) {
        if let Mode::Reading { value, .. } = &self.0 {
            value.tell(self.place(name).error(reason));
        }
    }

    /// Tells of an error elsewhere.
    pub fn tell(&self, error: ConfigError) {
        if let Mode::Reading { value, .. } = &self.0 {
            value.tell(error);
        }
    }

    /// Exactly one of these fields must be there.
    pub fn one_of(&self, names: &[&str]) {
        let Mode::Reading { value, .. } = &self.0 else { return };
        let there: Vec<_> = names.iter().filter(|name| self.has(name)).collect();
        let all = names.join(", ");
        match there[..] {
            [_] => {}
            [] => value.tell(value.place().error(format!("one is missing of {all}"))),
            [first, second, ..] => {
                self.wrong(second, &format!("{first} is there already; only one of {all} can be"));
            }
        }
    }

    fn field<'s>(
        &'s mut self,
        name: &'static str,
        about: &str,
        describe: impl FnOnce(&mut Schema) -> Json,
    ) -> Option<Value<'s>> {
        match &mut self.0 {
            Mode::Reading { value, table, known } => {
                known.push(name);
                find(table, name).map(|entry| value.below(entry))
            }
            Mode::Describing { schema, properties, .. } => {
                let mut described = describe(schema);
                if let Json::Object(described) = &mut described {
                    described.insert("description".into(), about.into());
                }
                properties.insert(name.into(), described);
                None
            }
        }
    }

    /// What is there and should not be.
    fn unknown(self) {
        let Mode::Reading { value, table, known } = self.0 else { return };
        for entry in table.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let field = below(&value.field, &entry.key);
            let place = value.document.place(entry.key_span.start, field);
            let reason = match nearest(&entry.key, known.iter().copied()) {
                Some(known) => format!("there is no such field; {known:?} is meant?"),
                None => format!("there is no such field; there are {}", known.join(", ")),
            };
            value.tell(place.error(reason));
        }
    }
}

fn find<'t>(table: &'t [Entry], name: &str) -> Option<&'t Entry> {
    table.iter().find(|entry| entry.key == name)
}

impl<S: Section> Setting for S {
    fn read(value: &Value<'_>) -> Option<Self> {
        let table = value.table()?;
        let mut fields = Fields(Mode::Reading { value, table, known: Vec::new() });
        let section = S::read(&mut fields);
        fields.unknown();
        section
    }

    fn describe(schema: &mut Schema) -> Json {
        schema.section::<S>()
    }
}

/// The fields of a section as the schema has them.
pub(super) fn described<S: Section>(schema: &mut Schema) -> Json {
    let (properties, required) = (Map::new(), Vec::new());
    let mut fields = Fields(Mode::Describing { schema, properties, required });
    let _ = S::read(&mut fields);
    let Mode::Describing { properties, required, .. } = fields.0 else { return Json::Null };
    let mut described = json!({
        "type": "object",
        "description": S::ABOUT,
        "properties": properties,
        "additionalProperties": false,
    });
    if let (Json::Object(described), false) = (&mut described, required.is_empty()) {
        described.insert("required".into(), required.into());
    }
    described
}

/// The one of `known` that `name` was probably meant to be.
pub fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let most = name.chars().count() / 3 + 1;
    let with_distance = known.map(|known| (distance(name, known), known));
    let (least, nearest) = with_distance.min()?;
    (least <= most).then_some(nearest)
}

/// How many characters must be changed, added or left out (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, one) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (to, other) in other.iter().enumerate() {
            let changed = diagonal + usize::from(one != *other);
            diagonal = row[to + 1];
            row[to + 1] = changed.min(diagonal + 1).min(row[to] + 1);
        }
    }
    row[other.len()]
}
