use super::*;

fn request(peer: Option<&str>, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::builder();
    for (name, line) in fields {
        request = request.header(*name, *line);
    }
    let mut request = request.body(()).unwrap();
    if let Some(peer) = peer {
        request.extensions_mut().insert(PeerAddr(SocketAddr::new(peer.parse().unwrap(), 4711)));
    }
    request
}

fn trusting() -> ClientIp {
    ClientIp::trusting(["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()))
}

fn key(client: &ClientIp, peer: &str, fields: &[(&'static str, &str)]) -> Option<String> {
    client.extract(&request(Some(peer), fields)).map(|ip| ip.to_string())
}

fn behind(proxies: usize, lines: &[&str]) -> Option<String> {
    let fields: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
    let client = ClientIp::behind(NonZeroUsize::new(proxies).unwrap());
    client.extract(&request(None, &fields)).map(|ip| ip.to_string())
}

#[test]
fn a_forged_leftmost_entry_changes_nothing() {
    let honest = behind(1, &["198.51.100.7"]);
    assert_eq!(honest.as_deref(), Some("198.51.100.7"));
    assert_eq!(behind(1, &["203.0.113.9, 198.51.100.7"]), honest);
    assert_eq!(behind(1, &["203.0.113.9", "10.0.0.1,198.51.100.7"]), honest);
    assert_eq!(behind(1, &["garbage,,,", " 198.51.100.7 "]), honest);

    for forged in ["198.51.100.7", "203.0.113.9, 198.51.100.7", "10.0.0.1, ,, x,198.51.100.7"] {
        assert_eq!(
            key(&trusting(), "10.0.0.1", &[("x-forwarded-for", forged)]),
            honest,
            "{forged}"
        );
    }
}

#[test]
fn behind_two_proxies_the_second_from_the_right_is_the_client() {
    let client = |fields| behind(2, fields);
    assert_eq!(client(&["6.6.6.6, 198.51.100.7, 10.0.0.1"]).as_deref(), Some("198.51.100.7"));
    assert_eq!(client(&["6.6.6.6, 198.51.100.7", "10.0.0.1"]).as_deref(), Some("198.51.100.7"));
    assert_eq!(client(&["10.0.0.1"]), None, "it came around a proxy");
    assert_eq!(client(&["6.6.6.6, unknown, 10.0.0.1"]), None);
    assert_eq!(client(&[]), None);
}

#[test]
fn the_client_is_the_first_untrusted_address_from_the_right() {
    for (line, client) in [
        ("203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, 10.9.9.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9:5555, fd00::1", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, ::ffff:10.9.9.9", "203.0.113.9"),
        ("[2001:db8:1:2:3::5]:80", "2001:db8:1:2::"),
        // All are trusted: the client is in there.
        ("10.1.1.1, 10.9.9.9", "10.1.1.1"),
        // Hidden: all of that proxy's clients share its bucket.
        ("1.1.1.1, unknown, 10.9.9.9", "10.9.9.9"),
        ("unknown", "10.0.0.7"),
        ("", "10.0.0.7"),
    ] {
        let fields = [("x-forwarded-for", line)];
        assert_eq!(key(&trusting(), "10.0.0.7", &fields).as_deref(), Some(client), "{line}");
        assert_eq!(key(&trusting(), "::ffff:10.0.0.7", &fields).as_deref(), Some(client), "{line}");
    }
    assert_eq!(key(&trusting(), "10.0.0.7", &[]).as_deref(), Some("10.0.0.7"));
}

#[test]
fn an_untrusted_peer_is_the_client_whatever_it_says() {
    for field in [("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1")] {
        for client in [trusting(), trusting().forwarded(), ClientIp::trusting([])] {
            let found = key(&client, "203.0.113.9", &[field]);
            assert_eq!(found.as_deref(), Some("203.0.113.9"), "{field:?}");
        }
    }
}

#[test]
fn of_the_two_fields_only_the_one_that_was_chosen_is_read() {
    let both = [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=198.51.100.2")];
    assert_eq!(key(&trusting(), "10.0.0.1", &both).as_deref(), Some("198.51.100.1"));
    assert_eq!(key(&trusting().forwarded(), "10.0.0.1", &both).as_deref(), Some("198.51.100.2"));
    // The proxy wrote none of its own: the other one is not believed instead.
    assert_eq!(key(&trusting(), "10.0.0.1", &both[1..]).as_deref(), Some("10.0.0.1"));
    assert_eq!(key(&trusting().forwarded(), "10.0.0.1", &both[..1]).as_deref(), Some("10.0.0.1"));
    let one = ClientIp::behind(NonZeroUsize::MIN).forwarded();
    assert_eq!(key(&one, "10.0.0.1", &both).as_deref(), Some("198.51.100.2"));
}

#[test]
fn without_a_peer_nobody_can_be_trusted() {
    let fields = [("x-forwarded-for", "198.51.100.7")];
    assert_eq!(trusting().extract(&request(None, &fields)), None);
    assert_eq!(PeerIp::new().extract(&request(None, &fields)), None);
}

#[test]
fn the_peer_may_be_found_in_an_extension_of_the_server() {
    /// As axum has it.
    #[derive(Clone)]
    struct ConnectInfo<T>(T);

    let mut request = request(None, &[("x-forwarded-for", "198.51.100.7")]);
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 4711))));
    let peer = PeerIp::by(|x| Some(x.get::<ConnectInfo<SocketAddr>>()?.0));
    assert_eq!(peer.extract(&request), Some([10, 0, 0, 1].into()));
    let client = trusting().peer_by(|x| Some(x.get::<ConnectInfo<SocketAddr>>()?.0));
    assert_eq!(client.extract(&request), Some([198, 51, 100, 7].into()));
}

#[test]
fn peers_of_one_64_are_one_key() {
    let key = |peer| PeerIp::new().extract(&request(Some(peer), &[]));
    assert_eq!(key("2001:db8::1"), key("2001:db8::ffff"));
    assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
}
