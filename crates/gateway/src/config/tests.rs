use super::*;

fn errors(text: &str) -> Vec<String> {
    let built = Config::parse("g.toml", text)
        .and_then(|config| config.build(&Resources::default()).map(drop));
    let errors = built.map_err(|errors| errors.iter().map(ToString::to_string).collect());
    errors.err().unwrap_or_default()
}

/// With an upstream and a route, whose fields these are.
fn route(fields: &str) -> String {
    format!(
        "[upstreams.orders]\naddresses = [\"10.0.0.1:80\"]\n[[routes]]\npath = \"/a\"\nto = \"orders\"\n{fields}"
    )
}

#[test]
fn all_errors_are_told_at_once_with_their_places() {
    let text = r#"
[server]
listen = "8080"
max_connections = 0

[upstreams.orders]
addresses = ["10.0.0.1:80", "orders:80"]
servise = "x"

[[routes]]
path = "/a"
to = "orders"
quota = { rate = "100 per minute", burst = 20 }

[[routes]]
to = "orders"
"#;
    let expected = [
        "g.toml:3:10: server.listen: \"8080\" is no address with a port; write \"127.0.0.1:8080\" or \"[::1]:8080\"",
        "g.toml:4:19: server.max_connections: 0 is too little; at least 1 is needed",
        "g.toml:7:29: upstreams.orders.addresses[1]: \"orders:80\" is no address with a port; write \"127.0.0.1:8080\" or \"[::1]:8080\"",
        "g.toml:8:1: upstreams.orders.servise: there is no such field; \"service\" is meant?",
        "g.toml:13:18: routes[0].quota.rate: \"100 per minute\" is no rate; write \"100/s\", \"100/m\", \"100/h\", or \"1/10s\"",
        "g.toml:15:1: routes[1].path: it is missing",
    ];
    assert_eq!(errors(text), expected);
}

#[test]
fn all_errors_of_syntax_are_told_at_once() {
    let errors = errors("[server\nlisten = 1.2.3\n[[routes]]\npath = \n");
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].starts_with("g.toml:1:8: ") && errors[1].starts_with("g.toml:4:8: "));
}

#[test]
fn what_only_fails_together_has_its_place_as_well() {
    for (text, expected) in [
        (
            route("scopes = [\"a\"]\n"),
            "g.toml:4:8: routes[0].path: it asks who sends, and nothing tells; add [jwt], [api_keys] or [certificates]",
        ),
        (
            route("quota = { rate = \"1/s\", by = \"subject\" }"),
            "g.toml:6:9: routes[0].quota: nobody is known on this route; add authenticated = true, or write by = \"client\"",
        ),
        (
            route("[[routes]]\npath = \"/a\"\nto = \"orders\""),
            "g.toml:7:8: routes[1].path: an earlier route takes the same requests; tell them apart by path, method, host, condition or rank",
        ),
        (
            route("[[routes]]\npath = \"/b\"\nto = \"order\""),
            "g.toml:8:6: routes[1].to: there is no upstream \"order\"; \"orders\" is meant?",
        ),
        (
            route("[[routes]]\npath = \"b\"\nto = \"orders\""),
            "g.toml:7:8: routes[1].path: it must begin with a slash: /b",
        ),
        (
            "[upstreams.a]\nservice = \"a\"\n".into(),
            "g.toml:2:11: upstreams.a.service: there is no registry to find it in; add [registry], or write addresses",
        ),
        ("[upstreams.a]\n".into(), "g.toml:1:1: upstreams.a: one is missing of service, addresses"),
        (
            "[upstreams.a]\nservice = \"a\"\naddresses = []\n[registry]\nurl=\"http://h:1\"".into(),
            "g.toml:3:13: upstreams.a.addresses: service is there already; only one of service, addresses can be",
        ),
        (
            "[admin]\nlisten = \"0.0.0.0:1\"\n".into(),
            "g.toml:2:10: admin.listen: whoever reaches it beyond loopback could change traffic; add token, or listen on 127.0.0.1",
        ),
        (
            "[jwt]\nsecret = { env = \"NONE_SUCH\" }\n".into(),
            "g.toml:2:18: jwt.secret.env: \"NONE_SUCH\" is not in the environment; set it",
        ),
        (
            "[defaults]\ncors = { origins = [\"https://*\"], credentials = true }\n".into(),
            "g.toml:2:20: defaults.cors.origins: origin \"https://*\": browsers write a host in lower case, with nothing after it but a port; *. may stand at its begin",
        ),
        ("[registry]\nurl = \"ftp://h\"\n".into(), ""),
        (
            "[server.clients]\nauthorities = \"a\"\n".into(),
            "g.toml:1:1: server.clients: certificates are asked for over TLS only; add [[server.tls]]",
        ),
    ] {
        let errors = errors(&text);
        assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
        assert!(expected.is_empty() || errors[0] == expected, "{errors:#?}\n{expected}");
    }
}

#[test]
fn a_secret_that_stands_in_the_file_is_not_shown() {
    for token in ["token = \"s3cret\"", "token = { text = \"s3cret\" }"] {
        let errors = errors(&format!("[admin]\nlisten = \"127.0.0.1:1\"\n{token}\n")).join("\n");
        assert!(errors.contains("a secret does not stand in the file"), "{errors}");
        assert!(!errors.contains("s3cret"), "{errors}");
    }
    let secret = "[admin]\nlisten = \"127.0.0.1:1\"\ntoken = { env = \"PATH\" }";
    let config = Config::parse("g.toml", secret).unwrap();
    assert!(!format!("{config:?}").contains(&std::env::var("PATH").unwrap()));
}

#[test]
fn variables_are_filled_in_and_one_that_is_missing_has_its_place() {
    let read = |text: &str| {
        let variable = |name: &str| (name == "PORT").then(|| "9090".to_owned());
        Document::parse("g.toml", text, variable).read::<file::FileSection>()
    };
    let file = read("[server]\nlisten = \"127.0.0.1:${PORT}\"\nmax_connections = \"${PORT}\"");
    let server = file.unwrap().server.unwrap();
    assert_eq!(server.listen, "127.0.0.1:9090".parse().ok());
    assert_eq!(server.max_connections.map(std::num::NonZero::get), Some(9090));
    assert_eq!(
        read("[server]\nlisten = \"127.0.0.1:${PORTS}\"\ncores = \"2\"").unwrap_err().to_string(),
        "g.toml:2:10: server.listen: the environment has no PORTS; set it, or write ${PORTS:-default}\n\
         g.toml:3:9: server.cores: \"2\" is no whole number; write one, such as 10"
    );
}

#[test]
fn the_schema_in_the_repository_is_that_of_the_code() {
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    let committed = read(include_str!("../../gateway.schema.json"));
    let same = committed.is_some() && committed == read(&Config::schema());
    assert!(same, "write it anew: gusset gateway --schema > crates/gateway/gateway.schema.json");
}
