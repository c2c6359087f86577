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

/// The same, whose route leads nowhere yet.
fn split(fields: &str) -> String {
    route(fields).replacen("to = \"orders\"\n", "", 1)
}

const VARIANTS: &str = "split = [{ name = \"a\", to = \"orders\", weight = 1 }, { name = \"b\", to = \"orders\", weight = 0 }]";

#[test]
fn all_errors_are_told_at_once_with_their_places() {
    let text = r#"
[server]
listen = "8080"
max_connections = 0

[upstreams.orders]
addresses = ["10.0.0.1:80", "orders"]
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
        "g.toml:7:29: upstreams.orders.addresses[1]: \"orders\" is no address; write \"10.0.0.1:80\", \"[2001:db8::1]:80\" or \"orders.internal:80\"",
        "g.toml:8:1: upstreams.orders.servise: there is no such field; \"service\" is meant?",
        "g.toml:13:18: routes[0].quota.rate: \"100 per minute\" is no rate; write \"100/s\", \"100/m\", \"100/h\", or \"1/10s\"",
        "g.toml:15:1: routes[1].path: it is missing",
    ];
    assert_eq!(errors(text), expected);
}

#[test]
fn an_address_that_is_written_wrongly_is_not_taken_for_a_name() {
    for wrong in [
        "10.0.0.300:80",
        "1.2.3:80",
        "orders:0",
        "orders:99999",
        "::1:80",
        "a b:80",
        ":80",
        "a/b:80",
    ] {
        let text = format!(
            "[upstreams.a]\naddresses = [\"{wrong}\"]\n[[routes]]\npath = \"/\"\nto = \"a\""
        );
        assert!(errors(&text)[0].contains("is no address; write"), "{wrong}: {:?}", errors(&text));
    }
}

#[test]
fn all_errors_of_syntax_are_told_at_once() {
    let errors = errors("[server\nlisten = 1.2.3\n[[routes]]\npath = \n");
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].starts_with("g.toml:1:8: ") && errors[1].starts_with("g.toml:4:8: "));
}

#[test]
fn a_key_that_is_wrong_is_all_that_is_said_of_who_sends() {
    let folder = gusset_engines::Folder::new("short");
    let file = folder.join("secret");
    std::fs::write(&file, "short\n").unwrap();
    let jwt = format!("authenticated = true\n[jwt]\nsecret = {{ file = {file:?} }}\n");
    let errors = errors(&route(&jwt));
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].contains("too short; HS256 needs 32 bytes"), "{errors:#?}");
}

#[test]
fn what_only_fails_together_has_its_place_as_well() {
    let mut wrong = Vec::new();
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
            route("sticky = { sender = true }"),
            "g.toml:6:10: routes[0].sticky: it is for the variants of split, which is not there",
        ),
        (
            route("mirror = { to = \"orders\", share = 2 }"),
            "g.toml:6:35: routes[0].mirror.share: 2 is not from 0 to 1",
        ),
        (
            route("mirror = { to = \"order\" }"),
            "g.toml:6:17: routes[0].mirror.to: there is no upstream \"order\"; \"orders\" is meant?",
        ),
        (
            route("hedge = { percentile = 100 }"),
            "g.toml:6:24: routes[0].hedge.percentile: it is a number from 1 to 99",
        ),
        (
            route("priority = \"high\""),
            "g.toml:6:12: routes[0].priority: \"high\" is none of \"normal\", \"low\"",
        ),
        (route("in_flight = 0"), "g.toml:6:13: routes[0].in_flight: 0 is not from 1 to 4294967295"),
        (
            route("[defaults]\nshed = { fixed = 9, max = 10 }"),
            "g.toml:7:27: defaults.shed.max: it is for adaptive, which is not there",
        ),
        (
            route("[defaults]\nshed = { adaptive = \"gradient\", min = 9, max = 8 }"),
            "g.toml:7:39: defaults.shed.min: from 9 to 8 there is nothing; min is the less",
        ),
        (
            route("[upstreams.b]\naddresses = [\"10.0.0.1:81\"]\ntags = [\"a\"]"),
            "g.toml:8:8: upstreams.b.tags: addresses say nothing of themselves; it is for service",
        ),
        (
            route("[upstreams.b]\naddresses = [\"10.0.0.1:81\"]\neject = 5"),
            "g.toml:8:9: upstreams.b.eject: 5 is neither false nor a table; write { failures_in_a_row = 5 }",
        ),
        (
            route("[upstreams.b]\naddresses = [\"10.0.0.1:81\"]\neject = { share = 1.5 }"),
            "g.toml:8:19: upstreams.b.eject.share: 1.5 is not from 0 to 1",
        ),
        (split("split = []"), "g.toml:5:9: routes[0].split: no variant of the split has a weight"),
        (
            split("split = [{ to = \"orders\", weight = 1 }, { to = \"orders\", weight = 1 }]"),
            "g.toml:5:9: routes[0].split: the split has two variants \"orders\"",
        ),
        (
            split("split = [{ to = \"order\", weight = 1 }]"),
            "g.toml:5:17: routes[0].split[0].to: there is no upstream \"order\"; \"orders\" is meant?",
        ),
        (
            split("split = [{ to = \"orders\", weight = -1 }]"),
            "g.toml:5:36: routes[0].split[0].weight: -1 is not from 0 to 4294967295",
        ),
        (
            split("split = [{ to = \"orders\", weight = 1 }]\nto = \"orders\""),
            "g.toml:5:9: routes[0].split: to is there already; only one of to, split, fan_out, redirect, answer can be",
        ),
        (
            split(&format!("{VARIANTS}\nrollout = {{ variant = \"c\" }}")),
            "g.toml:6:11: routes[0].rollout: there is no variant \"c\"; there are \"a\", \"b\"",
        ),
        (
            split(&format!("{VARIANTS}\nrollout = {{ variant = \"b\", steps = [5, 5] }}")),
            "g.toml:6:11: routes[0].rollout: [5, 5] are no steps: from 1 to 100 percent, each more than the last",
        ),
        (
            split(&format!("{VARIANTS}\nrollout = {{ variant = \"b\", slower = true }}")),
            "g.toml:6:37: routes[0].rollout.slower: true is no number; write one, such as 0.5",
        ),
        (
            split(&format!("{VARIANTS}\nsticky = {{ cookie = \"a b\" }}")),
            "g.toml:6:21: routes[0].sticky.cookie: it is no name of a cookie",
        ),
        (
            split(&format!("{VARIANTS}\nsticky = {{ sender = false }}")),
            "g.toml:6:21: routes[0].sticky.sender: nothing is left to tell clients by; leave sticky out",
        ),
        (
            split("fan_out = { branches = [{ name = \"a\", to = \"none\", path = \"/\" }] }"),
            "g.toml:5:44: routes[0].fan_out.branches[0].to: there is no upstream \"none\"; add [upstreams.none]",
        ),
        (
            split("fan_out = { branches = [{ name = \"a\", to = \"orders\", path = \"/{id}\" }] }"),
            "",
        ),
        (
            "[server.clients]\nauthorities = \"a\"\n".into(),
            "g.toml:1:1: server.clients: certificates are asked for over TLS only; add [[server.tls]]",
        ),
    ] {
        let errors = errors(&text);
        if errors.len() != 1 || (!expected.is_empty() && errors[0] != expected) {
            wrong.push((expected, errors));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
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
    if committed.is_some() && committed == read(&Config::schema()) {
        return;
    }
    let anew = std::env::temp_dir().join("gateway.schema.json");
    std::fs::write(&anew, Config::schema()).unwrap();
    panic!("it is another one; cp {} crates/gateway/gateway.schema.json", anew.display());
}
