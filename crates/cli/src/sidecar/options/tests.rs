use super::*;

const LEAST: [&str; 6] = ["--service", "cart", "--app", "127.0.0.1:9000", "--registry", "http://r"];

fn read_in(environment: Environment, args: &[&str]) -> Result<Option<Sidecar>, String> {
    let asked = parse(&mut lexopt::Parser::from_args(args), environment);
    match asked.map_err(|error| error.to_string())? {
        Some(Asked::Run(sidecar, _) | Asked::Check(sidecar)) => Ok(Some(*sidecar)),
        Some(Asked::Schema) | None => Ok(None),
    }
}

fn read(args: &[&str]) -> Result<Option<Sidecar>, String> {
    read_in(Environment::default(), args)
}

fn least_and(args: &[&str]) -> Result<Sidecar, String> {
    read(&[&LEAST[..], args].concat()).map(Option::unwrap)
}

#[test]
fn a_service_an_app_and_a_registry_are_enough() {
    let sidecar = least_and(&[]).unwrap();
    assert_eq!(sidecar.listen, "0.0.0.0:4143".parse().unwrap());
    assert_eq!(sidecar.outbound, "127.0.0.1:4140".parse().unwrap());
    assert_eq!(sidecar.admin, "127.0.0.1:4191".parse().unwrap());
    assert!(sidecar.command.is_empty());
    for left_out in [0, 2, 4] {
        let mut args = LEAST.to_vec();
        args.drain(left_out..left_out + 2);
        assert!(read(&args).is_err(), "{args:?}");
    }
    assert_eq!(read(&["--help"]), Ok(None));
}

#[test]
fn what_stands_behind_two_dashes_is_the_commands() {
    let sidecar = least_and(&["--", "python3", "-m", "app", "--help"]).unwrap();
    assert_eq!(sidecar.command, ["python3", "-m", "app", "--help"]);
    assert_eq!(least_and(&["--"]), Err("there is no command behind --".into()));
}

#[test]
fn the_environment_says_what_the_command_line_does_not() {
    let environment = || Environment {
        registry: Some("http://e".into()),
        token: Some("t".into()),
        admin_token: Some("a".into()),
    };
    let of = |args: &[&str]| read_in(environment(), args).unwrap().unwrap();
    let sidecar = of(&LEAST[..4]);
    assert_eq!((&*sidecar.registry, sidecar.token.as_deref()), ("http://e", Some("t")));
    assert_eq!(of(&LEAST).registry, "http://r");
    let beyond = of(&[&LEAST[..], &["--admin", "0.0.0.0:4191"]].concat());
    assert_eq!(beyond.admin_token.as_deref(), Some("a"));
}

#[test]
fn what_is_wrong_is_named() {
    for (args, said) in [
        (&["--app", "9000"][..], "--app: '9000' is no address"),
        (&["--app", "127.0.0.1:0"], "--app: port 0"),
        (&["--port", "1"], "invalid option '--port'"),
        (&["--port"], "invalid option '--port'"),
        (&["--timeout"], "missing argument for option '--timeout'"),
        (&["--timeout", "10"], "--timeout: '10' is no time; write 250ms, 10s or 5m"),
        (&["--timeout", "99999999999999999999s"], "--timeout: "),
        (&["--grace", "400000000000000000m"], "--grace: "),
        (&["--health", "http"], "--health: 'http' is none of"),
        (&["--health", "tcp:80"], "--health: 'tcp:80' is none of"),
        (&["--in-flight", "0"], "--in-flight: '0' is no number from 1 on"),
        (&["--advertise", "host:0"], "--advertise: "),
        (&["--advertise", "ho st"], "--advertise: "),
        (&["--meta", "key"], "--meta: 'key' is no KEY=VALUE"),
        (&["--token", ""], "a token is empty"),
        (&["--outbound", "0.0.0.0:4140"], "not listening on 0.0.0.0:4140 for the app"),
        (&["--admin", "0.0.0.0:4191"], "not listening on 0.0.0.0:4191 for operators"),
        (&["--cores", "0"], "--cores: '0' is no number from 1 on"),
        (&["more"], "unexpected argument"),
        (&["--app-http", "3"], "--app-http: '3' is neither"),
        (&["--mtls-cert", "c.pem"], "certificates need --trust-domain as well"),
        (&["--trust-domain", "shop.example"], "certificates need --mtls-ca as well"),
        (
            &["--trust-domain", "a/b", "--mtls-ca", "a", "--mtls-cert", "b", "--mtls-key", "c"],
            "--trust-domain: 'a/b'",
        ),
        (&["--quota", "100"], "--quota: '100' is no rate; write 100/s, 100/m or 1/10s"),
        (&["--quota", "0/s"], "--quota: '0/s' is no rate"),
        (&["--quota-by", "all"], "--quota-burst and --quota-by need --quota"),
        (&["--quota", "1/s", "--quota-by", "ip"], "--quota-by: 'ip' is none of"),
        (&["--quota", "1/s", "--quota-by", "caller"], "--quota-by caller: callers are known by"),
        (&["--otlp", "127.0.0.1:4318"], "--otlp: '127.0.0.1:4318' is no URL"),
        (&["--otlp-ca", "ca.pem"], "--otlp: '' is no URL"),
        (&["--config", "/nonexistent.toml"], "/nonexistent.toml: it cannot be read"),
    ] {
        let error = least_and(args).unwrap_err();
        assert!(error.starts_with(said), "{args:?}: {error}");
    }
}

const FILE: &str = r#"
    service = "cart"
    app = "127.0.0.1:9000"
    app_http = "2"
    health = "/healthz"
    command = ["python3", "cart.py"]
    timeout = "none"
    in_flight = 7
    quota = { rate = "100/m", burst = 20, by = "caller" }
    grace = "250ms"
    [access_log]
    [otlp]
    url = "http://o:4318"
    headers = { x-key = { env = "PATH" } }
    [registry]
    url = "https://r"
    authorities = "ca.pem"
    [admin]
    listen = "127.0.0.1:0"
    [instance]
    advertise = "cart-1:80"
    zone = "a"
    tags = ["blue"]
    meta = { team = "x" }
    [mtls]
    trust_domain = "shop.example"
    authorities = "mesh.pem"
    certificate = "cart.pem"
    key = "cart.key"
    allow = ["shop"]
"#;

/// A file with this text, gone afterwards.
struct Written(PathBuf);

impl Written {
    fn new(name: &str, text: &str) -> Self {
        let file = std::env::temp_dir().join(format!("gusset-{name}-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        Self(file)
    }

    fn read(&self, args: &[&str]) -> Result<Sidecar, String> {
        let config = ["--config", self.0.to_str().unwrap()];
        read(&[&config, args].concat()).map(Option::unwrap)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_file_says_the_same_and_the_command_line_wins() {
    let file = Written::new("whole.toml", FILE);
    let sidecar = file.read(&[]).unwrap();
    let folder = file.0.parent().unwrap();
    assert_eq!((sidecar.app_http, sidecar.timeout), (AppHttp::Two, Limit::NONE));
    assert_eq!((&*sidecar.registry, sidecar.authority), ("https://r", Some(folder.join("ca.pem"))));
    assert_eq!(sidecar.command, ["python3", "cart.py"]);
    assert_eq!(sidecar.advertise, Some(("cart-1".into(), Some(80))));
    assert_eq!(sidecar.labels.meta, [("team".into(), "x".into())]);
    let mesh = sidecar.mesh.unwrap();
    assert_eq!((&*mesh.trust_domain, mesh.key), ("shop.example", folder.join("cart.key")));
    assert_eq!(mesh.allow, ["shop"]);

    let quota = sidecar.quota.unwrap();
    assert_eq!((quota.quota, quota.by), (Quota::per_minute(100).burst(20), QuotaBy::Caller));
    assert_eq!(sidecar.access_log, Some(LogTo::Output));
    let otlp = sidecar.otlp.unwrap();
    assert_eq!((&*otlp.url, &*otlp.headers[0].0), ("http://o:4318", "x-key"));

    let over = ["--service", "mail", "--tag", "green", "--timeout", "5s", "--", "node", "mail.js"];
    let sidecar = file.read(&over).unwrap();
    assert_eq!(sidecar.service, "mail");
    assert_eq!(sidecar.labels.tags, ["blue", "green"]);
    assert_eq!(sidecar.timeout, Limit(Duration::from_secs(5)));
    assert_eq!(sidecar.command, ["node", "mail.js"]);
    assert_eq!(sidecar.grace, Duration::from_millis(250), "what nobody else says is the file's");
}

#[test]
fn all_that_is_wrong_in_a_file_is_said_at_once_with_its_place() {
    let text = "servise = \"cart\"\ntimeout = \"30\"\nhealth = \"http\"\n[registry]\ntoken = \"s3cret\"\n[mtls]\nkey = \"k\"\n";
    let error = Written::new("wrong.toml", text).read(&[]).unwrap_err();
    for said in [
        ":1:1: servise: there is no such field; \"service\" is meant?",
        ":2:11: timeout: \"30\" is no span of time",
        ":3:10: health: \"http\" is no way to ask",
        ":5:9: registry.token: a secret does not stand in the file",
        "mtls.trust_domain: it is missing",
    ] {
        assert!(error.contains(said), "{said} in {error}");
    }
    assert!(!error.contains("s3cret"), "{error}");
}

#[test]
fn a_rate_is_of_any_period() {
    let quota = |rate: &str| least_and(&["--quota", rate]).unwrap().quota.unwrap().quota;
    assert_eq!(quota("100/s"), Quota::per_second(100));
    assert_eq!(quota("5/h"), Quota::per_hour(5));
    assert_eq!(quota("1/10s"), Quota::new(1, Duration::from_secs(10)));
    assert_eq!(least_and(&[]).unwrap().quota, None);
}

#[test]
fn an_advertised_place_has_a_port_or_not() {
    for (text, host, port) in [
        ("10.0.0.7", "10.0.0.7", None),
        ("10.0.0.7:80", "10.0.0.7", Some(80)),
        ("fd00::7", "fd00::7", None),
        ("[fd00::7]:80", "fd00::7", Some(80)),
        ("cart-1.shop", "cart-1.shop", None),
        ("cart-1:8080", "cart-1", Some(8080)),
    ] {
        assert_eq!(advertised(text), Ok((host.into(), port)), "{text}");
    }
}

#[test]
fn an_app_is_asked_by_a_connection_by_http_or_by_grpc() {
    for (text, health) in [
        ("tcp", Health::Tcp),
        ("/healthz", Health::Http("/healthz".into())),
        ("grpc", Health::Grpc(String::new())),
        ("grpc:shop.Cart", Health::Grpc("shop.Cart".into())),
    ] {
        assert_eq!(Health::parse(text), Ok(health));
        assert_eq!(Health::parse(text).unwrap().text(), text);
    }
}
