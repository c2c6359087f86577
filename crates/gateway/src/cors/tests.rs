use super::*;

fn grant(cors: &Cors, origins: &[&str]) -> Option<String> {
    let mut headers = HeaderMap::new();
    for origin in origins {
        headers.append(header::ORIGIN, origin.parse().unwrap());
    }
    let grant = Grant::of(&Arc::new(cors.compile().unwrap()), &headers);
    let mut answer = HeaderMap::new();
    grant.say(&mut answer);
    let origin = answer.get(header::ACCESS_CONTROL_ALLOW_ORIGIN)?;
    Some(origin.to_str().unwrap().to_owned())
}

#[test]
fn an_origin_is_compared_as_a_whole() {
    let cors = Cors::origins(["https://shop.example", "http://localhost:3000"]);
    for good in ["https://shop.example", "http://localhost:3000"] {
        assert_eq!(grant(&cors, &[good]).as_deref(), Some(good));
    }
    for bad in [
        "http://shop.example",
        "https://shop.example.evil.example",
        "https://evilshop.example",
        "https://shop.example:8443",
        "https://SHOP.example",
        "https://shop.example/",
        "http://localhost",
        "null",
        "*",
        "",
    ] {
        assert_eq!(grant(&cors, &[bad]), None, "{bad}");
    }
    assert_eq!(grant(&cors, &[]), None);
    let twice = ["https://shop.example", "https://shop.example"];
    assert_eq!(grant(&cors, &twice), None, "two lines are none");
}

#[test]
fn a_star_stands_for_whole_labels_below_a_host() {
    let cors = Cors::origins(["https://*.shop.example", "https://*.dev.example:8443"]);
    for good in
        ["https://a.shop.example", "https://a-b.c_d.shop.example", "https://x.dev.example:8443"]
    {
        assert_eq!(grant(&cors, &[good]).as_deref(), Some(good));
    }
    for bad in [
        "https://shop.example",
        "https://.shop.example",
        "https://a..shop.example",
        "https://evilshop.example",
        "http://a.shop.example",
        "https://a.shop.example:8443",
        "https://x.dev.example",
        "https://evil.example/.shop.example",
        "https://evil.example:1.shop.example",
        "https://me@.shop.example",
        "https://evil.example?.shop.example",
        "https://evil.example#a.shop.example",
    ] {
        assert_eq!(grant(&cors, &[bad]), None, "{bad}");
    }
}

#[test]
fn what_no_browser_sends_is_refused_when_the_gateway_is_built() {
    for bad in [
        "shop.example",
        "null",
        "*",
        "https://",
        "https://Shop.example",
        "https://shop.example/",
        "https://shop.example:443",
        "http://shop.example:80",
        "https://shop.example:0x1",
        "https://shop.example:08443",
        "https://*",
        "https://*.example",
        "https://a.*.example",
        "https://*shop.example",
        "HTTPS://shop.example",
    ] {
        assert!(Cors::origins([bad]).compile().is_err(), "{bad}");
    }
    assert!(Cors::any().credentials().compile().is_err());
    assert!(Cors::origins(["http://[::1]:3000", "https://[::1]"]).compile().is_ok());
}

#[test]
fn any_origin_is_a_star_and_needs_no_vary() {
    assert_eq!(grant(&Cors::any(), &["null"]).as_deref(), Some("*"));
    let mut headers = HeaderMap::new();
    Grant::of(&Arc::new(Cors::any().compile().unwrap()), &headers.clone()).say(&mut headers);
    assert!(!headers.contains_key(header::VARY));
}

#[test]
fn what_the_upstream_says_is_replaced_and_its_vary_kept() {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Origin"));
    let policy = Arc::new(Cors::origins(["https://shop.example"]).compile().unwrap());
    Grant::of(&policy, &HeaderMap::new()).replace(&mut headers);
    assert_eq!(headers.len(), 1);
    assert_eq!(headers[header::VARY], "Accept, Origin");
}

proptest::proptest! {
    #[test]
    fn nothing_but_labels_makes_an_origin_below_another(prefix in "\\PC{0,12}") {
        let policy = Arc::new(Cors::origins(["https://*.shop.example"]).compile().unwrap());
        let origin = format!("https://{prefix}.shop.example");
        let mut headers = HeaderMap::new();
        let Ok(value) = HeaderValue::from_str(&origin) else { return Ok(()) };
        headers.insert(header::ORIGIN, value);
        if Grant::of(&policy, &headers).origin.is_some() {
            let uri: http::Uri = origin.parse().unwrap();
            proptest::prop_assert_eq!(uri.host(), Some(&*format!("{prefix}.shop.example")));
            proptest::prop_assert!(uri.port().is_none() && uri.path() == "/");
        }
    }
}
