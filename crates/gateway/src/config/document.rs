use std::{
    cell::RefCell,
    fs::File,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use toml::de::{DeTable, DeValue};

use super::{ConfigError, ConfigErrors, Place, Setting, Value, interpolate::filled};

/// A larger file is no configuration.
const LARGEST: u64 = 16 * 1024 * 1024;

/// A TOML file that was read, with variables filled in, and the place of everything in it.
///
/// In every text `${NAME}` is the variable of the environment, `${NAME:-default}` has a default, and `$${` stands for `${`. Numbers and flags may be written as
/// such texts, `cores = "${CORES}"`.
///
/// ```
/// use gusset_gateway::config::{Document, Fields, Section};
///
/// struct Cache {
///     keep: std::time::Duration,
/// }
///
/// impl Section for Cache {
///     const NAME: &'static str = "cache";
///     const ABOUT: &'static str = "What is kept.";
///
///     fn read(fields: &mut Fields<'_>) -> Option<Self> {
///         let keep = fields.required("keep", "How long.");
///         Some(Self { keep: keep? })
///     }
/// }
///
/// let read = |text: &str| Document::parse("cache.toml", text, |_| None).read::<Cache>();
/// assert_eq!(read("keep = \"5m\"").map(|cache| cache.keep.as_secs()), Ok(300));
/// let errors = read("keeps = 5").err().map(|errors| errors.to_string()).unwrap_or_default();
/// assert!(errors.contains(r#"cache.toml:1:1: keeps: there is no such field; "keep" is meant?"#));
/// assert!(errors.contains("cache.toml:1:1: keep: it is missing"), "{errors}");
/// ```
pub struct Document {
    name: Arc<str>,
    folder: PathBuf,
    text: String,
    /// Where each line begins.
    lines: Vec<usize>,
    root: Node,
    syntax: Vec<ConfigError>,
    variable: Box<Variables>,
    pub(super) errors: RefCell<Vec<ConfigError>>,
    pub(super) files: RefCell<Vec<PathBuf>>,
}

type Variables = dyn Fn(&str) -> Option<String>;

/// What stands in a file, and where.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) span: Range<usize>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Text {
        text: String,
        /// Whether variables were filled in.
        filled: bool,
    },
    /// An error says why it cannot be read.
    Broken,
    Integer(i64),
    Float(f64),
    Flag(bool),
    Date,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Range<usize>,
    pub(super) node: Node,
}

impl Document {
    /// Reads a file, with the variables of this process.
    ///
    /// # Errors
    ///
    /// If it cannot be read as text. What is wrong in it, [`read`](Self::read) tells.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ConfigErrors> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let whole = Place { file: name.as_str().into(), line: 0, column: 0, field: String::new() };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
            .map_err(|error| whole.error(format!("it cannot be read: {error}")))?;
        if bytes.len() as u64 > LARGEST {
            return Err(whole.error("it has more than 16 MiB").into());
        }
        let text = String::from_utf8(bytes);
        let text = text.map_err(|_| whole.error("it is no text in UTF-8"))?;
        let mut document = Self::parse(&name, text, |name| std::env::var(name).ok());
        document.folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(document)
    }

    /// Reads `text`, which errors call `name`. Relative paths in it are those of the working directory.
    pub fn parse(
        name: &str,
        text: impl Into<String>,
        variable: impl Fn(&str) -> Option<String> + 'static,
    ) -> Self {
        let text = text.into();
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        let root = Node { kind: Kind::Broken, span: 0..0 };
        let mut document = Self {
            name: name.into(),
            folder: PathBuf::new(),
            text,
            lines,
            root,
            syntax: Vec::new(),
            variable: Box::new(variable),
            errors: RefCell::default(),
            files: RefCell::default(),
        };
        let (root, syntax, wrong) = document.nodes();
        document.root = root;
        document.syntax = syntax;
        document.errors = RefCell::new(wrong);
        document
    }

    /// What the whole file says.
    ///
    /// # Errors
    ///
    /// Everything that is wrong in it: all errors of syntax, or else all others.
    pub fn read<T: Setting>(&self) -> Result<T, ConfigErrors> {
        ConfigErrors::check(self.syntax.clone())?;
        let read = T::read(&Value { document: self, node: &self.root, field: String::new() });
        ConfigErrors::check(self.errors.borrow().clone())?;
        read.ok_or_else(|| self.whole().error("it cannot be read").into())
    }

    /// The nodes, what is wrong with the syntax, and what cannot be filled in.
    fn nodes(&self) -> (Node, Vec<ConfigError>, Vec<ConfigError>) {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        let syntax = errors.iter().map(|error| {
            let place = self.place(error.span().map_or(0, |span| span.start), String::new());
            place.error(error.message())
        });
        let mut reading = Reading { document: self, wrong: Vec::new() };
        let root = reading.table(table.get_ref(), table.span(), "");
        (root, syntax.collect(), reading.wrong)
    }

    /// A hash of the file, of 16 hexadecimal digits, that tells versions apart.
    #[must_use]
    pub fn hash(&self) -> String {
        let hash = Sha256::digest(self.text.as_bytes());
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The other files whose changes are changes of this one.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().clone()
    }

    /// The file as a whole, for errors that have no better place.
    #[must_use]
    pub fn whole(&self) -> Place {
        Place { file: self.name.clone(), line: 0, column: 0, field: String::new() }
    }

    /// The path of a file that is named in this one: relative to it.
    pub(super) fn beside(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name)
    }

    pub(super) fn place(&self, at: usize, field: String) -> Place {
        let line = self.lines.partition_point(|start| *start <= at);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(start..at).unwrap_or_default();
        Place { file: self.name.clone(), line, column: before.chars().count() + 1, field }
    }

    /// As it was written, in short.
    pub(super) fn written(&self, span: &Range<usize>) -> String {
        const LONGEST: usize = 60;
        let text = self.text.get(span.clone()).unwrap_or_default();
        let short: String = text.chars().take_while(|c| *c != '\n').take(LONGEST).collect();
        if short.len() < text.len() { format!("{short}…") } else { short }
    }
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Document").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Makes nodes of what the parser has found.
struct Reading<'d> {
    document: &'d Document,
    wrong: Vec<ConfigError>,
}

impl Reading<'_> {
    fn table(&mut self, table: &DeTable<'_>, span: Range<usize>, field: &str) -> Node {
        let mut entries = Vec::with_capacity(table.len());
        for (key, value) in table {
            let name = key.get_ref().to_string();
            let node = self.node(value.get_ref(), value.span(), &below(field, &name));
            entries.push(Entry { key: name, key_span: key.span(), node });
        }
        Node { kind: Kind::Table(entries), span }
    }

    fn node(&mut self, value: &DeValue<'_>, span: Range<usize>, field: &str) -> Node {
        let kind = match value {
            DeValue::String(text) => match filled(text, &self.document.variable) {
                Ok(None) => Kind::Text { text: text.to_string(), filled: false },
                Ok(Some(text)) => Kind::Text { text, filled: true },
                Err(reason) => self.broken(&span, field, reason),
            },
            DeValue::Integer(number) => {
                let digits = number.as_str().replace('_', "");
                match i64::from_str_radix(&digits, number.radix()) {
                    Ok(number) => Kind::Integer(number),
                    Err(_) => self.broken(&span, field, format!("{digits} is too large a number")),
                }
            }
            DeValue::Float(number) => match number.as_str().replace('_', "").parse() {
                Ok(number) => Kind::Float(number),
                Err(_) => self.broken(&span, field, "it is no number".into()),
            },
            DeValue::Boolean(flag) => Kind::Flag(*flag),
            DeValue::Datetime(_) => Kind::Date,
            DeValue::Array(list) => {
                let members = list.iter().enumerate().map(|(at, member)| {
                    self.node(member.get_ref(), member.span(), &format!("{field}[{at}]"))
                });
                Kind::List(members.collect())
            }
            DeValue::Table(table) => return self.table(table, span, field),
        };
        Node { kind, span }
    }

    fn broken(&mut self, span: &Range<usize>, field: &str, reason: String) -> Kind {
        self.wrong.push(self.document.place(span.start, field.to_owned()).error(reason));
        Kind::Broken
    }
}

/// The field `name` within `field`.
pub(super) fn below(field: &str, name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let name = if !name.is_empty() && name.bytes().all(bare) {
        name.to_owned()
    } else {
        format!("{name:?}")
    };
    if field.is_empty() { name } else { format!("{field}.{name}") }
}
