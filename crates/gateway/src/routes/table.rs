//! Which route takes a request: host, then path, then method.

use std::{collections::HashMap, fmt};

use http::Method;
use matchit::Params;

/// The methods of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Methods {
    /// All but CONNECT, which would make a tunnel, and TRACE, which shows headers that the gateway adds.
    Any,
    /// These. GET stands for HEAD as well.
    These(Vec<Method>),
}

impl Methods {
    const USUAL: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];

    pub(crate) fn these(methods: impl IntoIterator<Item = Method>) -> Self {
        let mut these: Vec<Method> = Vec::new();
        for method in methods {
            let implied = (method == Method::GET).then_some(Method::HEAD);
            for method in std::iter::once(method).chain(implied) {
                if !these.contains(&method) {
                    these.push(method);
                }
            }
        }
        Self::These(these)
    }

    pub(crate) fn contains(&self, method: &Method) -> bool {
        match self {
            Self::Any => !matches!(*method, Method::CONNECT | Method::TRACE),
            Self::These(methods) => methods.contains(method),
        }
    }

    fn listed(&self) -> &[Method] {
        match self {
            Self::Any => &Self::USUAL,
            Self::These(methods) => methods,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::These(methods), _) => methods.iter().any(|method| other.contains(method)),
            (Self::Any, Self::These(methods)) => methods.iter().any(|method| self.contains(method)),
            (Self::Any, Self::Any) => true,
        }
    }
}

/// The methods that a path has: the value of `Allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed(Vec<Method>);

impl Allowed {
    fn add(&mut self, node: &Node) {
        for method in node.0.iter().flat_map(|(methods, _)| methods.listed()) {
            if !self.0.contains(method) {
                self.0.push(method.clone());
            }
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, method) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{method}")?;
        }
        Ok(())
    }
}

/// What the table says of a request.
#[derive(Debug)]
pub(crate) enum Lookup<'t, 'p> {
    /// The route of this number, and what its template's parameters stand for.
    Found(usize, Params<'t, 'p>),
    /// The path is known, with other methods.
    WrongMethod(Allowed),
    Unknown,
}

/// Why a route cannot be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// The template is not one, for this reason.
    Template(String),
    /// A route with the same path and an equal method is there already.
    Taken,
}

/// Routes by host and path, built once. A route that names the host of a request goes before one that names none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    hosts: HashMap<String, Paths>,
    any_host: Paths,
}

#[derive(Clone, Debug, Default)]
struct Paths {
    router: matchit::Router<usize>,
    /// Place of each template in `nodes`; the router cannot be asked for a template, only for a path.
    places: HashMap<String, usize>,
    nodes: Vec<Node>,
}

/// The routes that share a template, with disjoint methods.
#[derive(Clone, Debug, Default)]
struct Node(Vec<(Methods, usize)>);

impl Table {
    /// Adds the route with this number.
    pub(crate) fn insert(
        &mut self,
        host: Option<&str>,
        template: &str,
        methods: Methods,
        number: usize,
    ) -> Result<(), Rejected> {
        let paths = match host {
            Some(host) => self.hosts.entry(host_key(host)).or_default(),
            None => &mut self.any_host,
        };
        paths.insert(template, methods, number)
    }

    /// Finds the route of a request. `host` may have a port, which is not looked at.
    pub(crate) fn find<'t, 'p>(
        &'t self,
        host: &str,
        path: &'p str,
        method: &Method,
    ) -> Lookup<'t, 'p> {
        // Most tables name no host, and then its spelling is of no interest.
        let of_host = if self.hosts.is_empty() { None } else { self.hosts.get(&host_key(host)) };
        let mut allowed = Allowed::default();
        for paths in of_host.into_iter().chain([&self.any_host]) {
            let Ok(matched) = paths.router.at(path) else { continue };
            let node = &paths.nodes[*matched.value];
            match node.0.iter().find(|(methods, _)| methods.contains(method)) {
                Some(&(_, number)) => return Lookup::Found(number, matched.params),
                None => allowed.add(node),
            }
        }
        if allowed.0.is_empty() { Lookup::Unknown } else { Lookup::WrongMethod(allowed) }
    }
}

impl Paths {
    fn insert(&mut self, template: &str, methods: Methods, number: usize) -> Result<(), Rejected> {
        let place = match self.places.get(template) {
            Some(&place) => place,
            None => {
                let place = self.nodes.len();
                self.router
                    .insert(template, place)
                    .map_err(|error| Rejected::Template(reason(template, error)))?;
                self.places.insert(template.to_owned(), place);
                self.nodes.push(Node::default());
                place
            }
        };
        let node = &mut self.nodes[place].0;
        if node.iter().any(|(present, _)| present.overlaps(&methods)) {
            return Err(Rejected::Taken);
        }
        node.push((methods, number));
        Ok(())
    }
}

/// What is wrong with a template, in the words of this crate.
fn reason(template: &str, error: matchit::InsertError) -> String {
    use matchit::InsertError as E;
    match error {
        E::Conflict { with } if shape(&with) == shape(template) => {
            format!("route {with} is the same path with other names of parameters; name them alike")
        }
        E::Conflict { with } => format!(
            "where it and route {with} differ, one has a parameter and the other the rest of the path; only one of them can stand there"
        ),
        E::InvalidParamSegment => {
            "a segment has one parameter at most, at its end: /{name} or /v{name}".into()
        }
        E::InvalidParam => {
            "a parameter is written {name} with a name of at least one letter, a literal brace {{ or }}"
                .into()
        }
        E::InvalidCatchAll => {
            "{*name} stands for the rest of the path, so it is the whole last segment".into()
        }
        _ => "it is no template of a path".into(),
    }
}

/// A template without the names of its parameters.
fn shape(template: &str) -> String {
    let mut shape = String::new();
    for (at, piece) in template.split('{').enumerate() {
        let (name, literal) = piece.split_once('}').filter(|_| at > 0).unwrap_or(("", piece));
        shape.push_str(if at == 0 {
            ""
        } else if name.starts_with('*') {
            "{*}"
        } else {
            "{}"
        });
        shape.push_str(literal);
    }
    shape
}

/// Without port and final dot, in lower case.
fn host_key(host: &str) -> String {
    let name = match host.rfind(':') {
        // The colons of an IPv6 address stand before its bracket.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get() -> Methods {
        Methods::these([Method::GET])
    }

    fn table(routes: &[(Option<&str>, &str, Methods)]) -> Table {
        let mut table = Table::default();
        for (number, (host, template, methods)) in routes.iter().enumerate() {
            table.insert(*host, template, methods.clone(), number).unwrap();
        }
        table
    }

    fn found(table: &Table, host: &str, method: Method, path: &str) -> Option<usize> {
        match table.find(host, path, &method) {
            Lookup::Found(number, _) => Some(number),
            _ => None,
        }
    }

    #[test]
    fn a_literal_segment_wins_over_a_parameter_and_that_over_the_rest() {
        let table = table(&[
            (None, "/{*rest}", get()),
            (None, "/orders/{id}", get()),
            (None, "/orders/latest", get()),
        ]);
        assert_eq!(found(&table, "h", Method::GET, "/orders/latest"), Some(2));
        assert_eq!(found(&table, "h", Method::GET, "/orders/7"), Some(1));
        assert_eq!(found(&table, "h", Method::GET, "/orders/7/items"), Some(0));
        assert!(matches!(table.find("h", "/", &Method::GET), Lookup::Unknown));
    }

    #[test]
    fn an_unknown_path_differs_from_a_wrong_method() {
        let table =
            table(&[(None, "/orders", get()), (None, "/orders", Methods::these([Method::POST]))]);
        assert!(matches!(table.find("h", "/order", &Method::GET), Lookup::Unknown));
        let Lookup::WrongMethod(allowed) = table.find("h", "/orders", &Method::DELETE) else {
            panic!("405")
        };
        assert_eq!(allowed.to_string(), "GET, HEAD, POST");
        assert_eq!(found(&table, "h", Method::HEAD, "/orders"), Some(0));
        assert_eq!(found(&table, "h", Method::POST, "/orders"), Some(1));
    }

    #[test]
    fn any_method_does_not_make_tunnels_or_show_headers() {
        let table = table(&[(None, "/a", Methods::Any)]);
        assert_eq!(found(&table, "h", Method::from_bytes(b"PURGE").unwrap(), "/a"), Some(0));
        for method in [Method::CONNECT, Method::TRACE] {
            assert!(matches!(table.find("h", "/a", &method), Lookup::WrongMethod(_)));
        }
    }

    #[test]
    fn a_route_of_the_host_goes_before_one_of_any() {
        let table = table(&[
            (None, "/a", Methods::Any),
            (Some("Shop.example"), "/a", get()),
            (Some("[::1]"), "/a", get()),
        ]);
        assert_eq!(found(&table, "shop.EXAMPLE:8080", Method::GET, "/a"), Some(1));
        assert_eq!(found(&table, "shop.example.", Method::GET, "/a"), Some(1));
        assert_eq!(found(&table, "[::1]:80", Method::GET, "/a"), Some(2));
        assert_eq!(found(&table, "[::1]", Method::GET, "/a"), Some(2));
        assert_eq!(found(&table, "shop.example", Method::POST, "/a"), Some(0));
        assert_eq!(found(&table, "other", Method::GET, "/a"), Some(0));
    }

    #[test]
    fn two_routes_for_the_same_requests_are_rejected() {
        let mut table = table(&[(None, "/a/{id}", get())]);
        let head = Methods::these([Method::HEAD]);
        assert_eq!(table.insert(None, "/a/{id}", head, 1), Err(Rejected::Taken));
        assert_eq!(table.insert(None, "/a/{id}", Methods::Any, 1), Err(Rejected::Taken));
        let other_name = table.insert(None, "/a/{name}", Methods::these([Method::PUT]), 1);
        assert!(matches!(other_name, Err(Rejected::Template(_))));
        assert!(matches!(table.insert(None, "/b/{", get(), 1), Err(Rejected::Template(_))));
    }
}
