use super::*;
use crate::Condition;

fn get() -> Methods {
    Methods::these([Method::GET])
}

fn entry(methods: Methods, number: usize) -> Entry {
    Entry { methods, conditions: Vec::new(), rank: 0, number }
}

fn when(conditions: &[Condition], rank: i32, number: usize) -> Entry {
    let conditions = conditions.iter().map(|condition| condition.compile().unwrap()).collect();
    Entry { methods: Methods::Any, conditions, rank, number }
}

fn insert(table: &mut Table, host: Option<&str>, path: &str, entry: Entry) -> Result<(), Taken> {
    table.insert(host, &Pattern::parse(path).unwrap(), entry)
}

fn table(routes: &[(Option<&str>, &str, Methods)]) -> Table {
    let mut table = Table::default();
    for (number, (host, path, methods)) in routes.iter().enumerate() {
        insert(&mut table, *host, path, entry(methods.clone(), number)).unwrap();
    }
    table
}

fn find(table: &Table, host: &str, method: Method, path: &str) -> Lookup {
    let headers = HeaderMap::new();
    table.find(&Asked { host, path, method: &method, query: None, headers: Some(&headers) })
}

fn found(table: &Table, host: &str, method: Method, path: &str) -> Option<usize> {
    match find(table, host, method, path) {
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
        (None, "/orders/{*more}", get()),
    ]);
    assert_eq!(found(&table, "h", Method::GET, "/orders/latest"), Some(2));
    assert_eq!(found(&table, "h", Method::GET, "/orders/7"), Some(1));
    assert_eq!(found(&table, "h", Method::GET, "/orders/7/items"), Some(3));
    assert_eq!(found(&table, "h", Method::GET, "/users"), Some(0));
    assert_eq!(found(&table, "h", Method::GET, "/"), Some(0));
    assert_eq!(found(&table, "h", Method::GET, "/orders/"), Some(3));
    assert_eq!(found(&table, "h", Method::GET, "/orders"), Some(0));
}

#[test]
fn an_unknown_path_differs_from_a_wrong_method() {
    let table =
        table(&[(None, "/orders", get()), (None, "/orders", Methods::these([Method::POST]))]);
    assert_eq!(find(&table, "h", Method::GET, "/order"), Lookup::Unknown);
    let Lookup::WrongMethod(allowed) = find(&table, "h", Method::DELETE, "/orders") else {
        panic!("405")
    };
    assert_eq!(allowed.to_string(), "GET, HEAD, POST");
    assert_eq!(found(&table, "h", Method::HEAD, "/orders"), Some(0));
    assert_eq!(found(&table, "h", Method::POST, "/orders"), Some(1));
}

#[test]
fn a_wrong_method_at_a_literal_is_looked_for_at_its_neighbours() {
    let delete = Methods::these([Method::DELETE]);
    let table = table(&[(None, "/orders/latest", get()), (None, "/orders/{id}", delete)]);
    assert_eq!(found(&table, "h", Method::DELETE, "/orders/latest"), Some(1));
    let Lookup::WrongMethod(allowed) = find(&table, "h", Method::PUT, "/orders/latest") else {
        panic!("405")
    };
    assert_eq!(allowed.to_string(), "GET, HEAD, DELETE");
}

#[test]
fn any_method_does_not_make_tunnels_or_show_headers() {
    let table = table(&[(None, "/a", Methods::Any)]);
    assert_eq!(found(&table, "h", Method::from_bytes(b"PURGE").unwrap(), "/a"), Some(0));
    for method in [Method::CONNECT, Method::TRACE] {
        assert!(matches!(find(&table, "h", method, "/a"), Lookup::WrongMethod(_)));
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
fn a_wildcard_stands_for_all_hosts_below_and_the_longest_goes_first() {
    let table = table(&[
        (Some("*.example"), "/a", get()),
        (Some("*.Shop.example"), "/a", get()),
        (Some("de.shop.example"), "/a", get()),
        (Some("*.shop.example"), "/b", get()),
    ]);
    for (host, path, number) in [
        ("de.shop.example:443", "/a", Some(2)),
        ("fr.shop.example", "/a", Some(1)),
        ("x.y.SHOP.example.", "/a", Some(1)),
        ("shop.example", "/a", Some(0)),
        ("example", "/a", None),
        ("myshop.example", "/b", None),
        ("de.shop.example", "/b", Some(3)),
    ] {
        assert_eq!(found(&table, host, Method::GET, path), number, "{host} {path}");
    }
    assert!(is_host_pattern("*.a.example:80") && is_host_pattern("[::1]"));
    for bad in ["*", "*.", "a.*", "a*.example", "*.*.example", "a b", ""] {
        assert!(!is_host_pattern(bad), "{bad}");
    }
}

#[test]
fn more_conditions_go_first_and_what_is_not_met_falls_to_the_next() {
    let (beta, german) = (Condition::header("x-beta"), Condition::query("lang").is("de"));
    let mut table = Table::default();
    for (path, conditions, number) in [
        ("/a", &[][..], 0),
        ("/a", std::slice::from_ref(&beta), 1),
        ("/a", &[beta.clone(), german.clone()], 2),
        ("/b", std::slice::from_ref(&german), 3),
        ("/{*rest}", &[], 4),
    ] {
        insert(&mut table, None, path, when(conditions, 0, number)).unwrap();
    }
    let found = |fields: &[&'static str], path: &str, query: &str| {
        let headers: HeaderMap =
            fields.iter().map(|&name| (name.parse().unwrap(), "1".parse().unwrap())).collect();
        let (method, query) = (&Method::GET, Some(query));
        match table.find(&Asked { host: "h", path, method, query, headers: Some(&headers) }) {
            Lookup::Found(number, _) => number,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(found(&[], "/a", ""), 0);
    assert_eq!(found(&["x-beta"], "/a", ""), 1);
    assert_eq!(found(&["x-beta"], "/a", "lang=de"), 2);
    assert_eq!(found(&[], "/b", "lang=de"), 3);
    assert_eq!(found(&[], "/b", "lang=en"), 4, "a path hides no other");
}

#[test]
fn a_path_whose_conditions_are_not_met_is_unknown_and_fields_of_a_preflight_are_not_known_yet() {
    let mut table = Table::default();
    insert(&mut table, None, "/a", when(&[Condition::header("x-beta")], 0, 7)).unwrap();
    assert_eq!(find(&table, "h", Method::GET, "/a"), Lookup::Unknown);
    let asked = Asked { host: "h", path: "/a", method: &Method::GET, query: None, headers: None };
    assert!(matches!(table.find(&asked), Lookup::Found(7, _)));
}

#[test]
fn two_routes_for_the_same_requests_are_rejected() {
    let x = |value: &str| Condition::header("x").is(value);
    let mut table = table(&[(None, "/a/{id}", get())]);
    let mut insert = |path: &str, entry: Entry| insert(&mut table, None, path, entry);
    let head = || Methods::these([Method::HEAD]);
    assert_eq!(insert("/a/{id}", entry(head(), 1)), Err(Taken));
    assert_eq!(insert("/a/{id}", entry(Methods::Any, 1)), Err(Taken));
    assert_eq!(insert("/a/{name}", entry(head(), 1)), Err(Taken), "by another name");
    assert_eq!(insert("/a/{name}", entry(Methods::these([Method::PUT]), 1)), Ok(()));

    assert_eq!(insert("/b", when(&[x("1")], 0, 2)), Ok(()));
    assert_eq!(insert("/b", when(&[x("2")], 0, 3)), Ok(()), "they exclude each other");
    let y = Condition::query("y");
    assert_eq!(insert("/b", when(std::slice::from_ref(&y), 0, 4)), Err(Taken), "which of the two?");
    assert_eq!(insert("/b", when(std::slice::from_ref(&y), 1, 4)), Ok(()), "the rank says it");
    let never = when(&[x("3"), y], 0, 5);
    assert_eq!(insert("/b", never), Err(Taken), "the one of higher rank takes all of it");
}
