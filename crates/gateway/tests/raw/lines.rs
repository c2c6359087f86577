//! The first line of a request, and its host.

use crate::client::Front;

const END: &str = "HTTP/1.1\r\nHost: a\r\n\r\n";

/// Each is answered with this status and ends its connection, and no instance sees anything of it.
async fn refused(status: u16, requests: &[&str]) {
    let front = Front::new().await;
    for request in requests {
        let said = front.says(request).await;
        assert_eq!(said.statuses(), [status], "{request:?} {said:?}");
        assert!(said.ended && said.rest.is_empty(), "{request:?} {said:?}");
        assert!(front.instance.requests().is_empty(), "{request:?}");
    }
}

/// Each is answered with this status; it is clear where it ends, so the next is answered as well.
async fn answered(status: u16, requests: &[&str]) {
    let front = Front::new().await;
    for request in requests {
        let said = front.says(request).await;
        assert_eq!(said.statuses(), [status, 200], "{request:?} {said:?}");
        assert_eq!(said.targets(), ["/next"]);
        assert_eq!(front.instance.requests().len(), 1, "{request:?}");
    }
}

#[tokio::test]
async fn a_first_line_has_three_parts_and_one_space_between_them() {
    refused(
        400,
        &[
            &format!("GET  /a {END}"),
            &format!("GET /a  {END}"),
            &format!("GET /a b {END}"),
            &format!("GET\t/a\t{END}"),
            &format!(" GET /a {END}"),
            &format!("\tGET /a {END}"),
            &format!("GET {END}"),
            &format!("/a {END}"),
            "GET /a\r\nHost: a\r\n\r\n",
            "GET /a HTTP/1.1 \r\nHost: a\r\n\r\n",
            "GET /a HTTP/1.1 x\r\nHost: a\r\n\r\n",
            "GET\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn a_method_is_a_token() {
    refused(
        400,
        &[
            &format!("G(T /a {END}"),
            &format!("G\0T /a {END}"),
            &format!("GET\u{e9} /a {END}"),
            &format!("\"GET\" /a {END}"),
            &format!("GET: /a {END}"),
            &format!("{{}} /a {END}"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_version_is_1_0_or_1_1() {
    let versions = [
        "HTTP/3",
        "HTTP/11",
        "HTTP/1.10",
        "http/1.1",
        "HTTP/1,1",
        "HTTPS/1.1",
        "HTTP 1.1",
        "HTTP/ 1.1",
        "X",
    ];
    let others = ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0"];
    let others = others.map(|version| format!("GET /a {version}\r\nHost: a\r\n\r\n"));
    refused(505, &others.each_ref().map(String::as_str)).await;
    let lines = versions.map(|version| format!("GET /a {version}\r\nHost: a\r\n\r\n"));
    refused(400, &lines.each_ref().map(String::as_str)).await;
}

#[tokio::test]
async fn a_target_has_no_control_characters() {
    let bad = ["/a\0b", "/a\x01b", "/a\x7fb", "/a\x0bb", "/a\rb", "/a\r/b"];
    let lines = bad.map(|target| format!("GET {target} {END}"));
    refused(400, &lines.each_ref().map(String::as_str)).await;
}

#[tokio::test]
async fn a_target_is_a_path_or_names_its_host() {
    let bad = [
        "a",
        "a/b",
        "?a",
        "*",
        "a:80",
        "http://",
        "http:///a",
        "http://user@a/b",
        "http://user:word@a/b",
        "http://a:x/b",
        "http://[::1/b",
        "http://a b/",
        "@a/b",
        ":80/a",
        "/b#there",
    ];
    for target in bad {
        let front = Front::new().await;
        let said = front.says(format!("GET {target} {END}")).await;
        assert_eq!(said.statuses().first(), Some(&400), "{target} {said:?}");
        assert!(front.instance.requests().iter().all(|seen| seen.target() == "/next"), "{target}");
    }
}

#[tokio::test]
async fn a_path_that_servers_read_in_different_ways_is_refused() {
    let bad = [
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/a%00",
        "/a/..;/b",
        "/a/%2e%2e;/b",
        "/a%",
        "/a%4",
        "/a%zz",
        "/%u002e/a",
    ];
    let lines = bad.map(|target| format!("GET {target} {END}"));
    answered(400, &lines.each_ref().map(String::as_str)).await;
}

#[tokio::test]
async fn what_an_instance_is_asked_is_a_path_in_its_one_spelling() {
    let front = Front::new().await;
    for (target, seen) in [
        ("/a/../b", "/b"),
        ("/../../b", "/b"),
        ("/a/%2e%2e/b", "/b"),
        ("//b", "/b"),
        ("//evil.example/b", "/evil.example/b"),
        ("/./b//", "/b/"),
        ("/%62", "/b"),
        ("/a%0d%0aX:1", "/a%0D%0AX:1"),
        ("/b?x=../%2f//", "/b?x=../%2f//"),
        ("http://shop/b", "/b"),
        ("http://shop", "/"),
        ("http://shop?x", "/?x"),
        ("HTTP://SHOP/b", "/b"),
        ("https://shop:443/b", "/b"),
    ] {
        let said = front.says(format!("GET {target} {END}")).await;
        assert_eq!(said.targets(), [seen, "/next"], "{target} {said:?}");
        let requests = front.instance.requests();
        assert_eq!(requests[0].all("host"), [front.instance.address.to_string()]);
    }
}

#[tokio::test]
async fn the_host_of_an_absolute_target_wins_over_the_field() {
    let front = Front::new().await;
    front.says("GET http://one:80/a HTTP/1.1\r\nHost: two\r\n\r\n").await;
    let requests = front.instance.requests();
    assert_eq!(requests[0].all("x-forwarded-host"), ["one:80"]);
}

#[tokio::test]
async fn there_is_exactly_one_host() {
    answered(
        400,
        &[
            "GET /a HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost:\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a, b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: user@a\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a?b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a:b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a:123456\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a:-1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: ::1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: [::1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: http://a\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\tb\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: \u{e9}\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: b c\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn empty_lines_before_a_request_are_passed_over() {
    let front = Front::new().await;
    let said = front.says(format!("\r\n\r\nGET /a {END}")).await;
    assert_eq!(said.targets(), ["/a", "/next"]);
}

#[tokio::test]
async fn connect_and_trace_go_nowhere() {
    let front = Front::new().await;
    for (request, status) in [
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400),
        ("CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("TRACE /a HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ] {
        let said = front.says(request).await;
        assert_eq!(said.statuses().first(), Some(&status), "{request:?} {said:?}");
        let requests = front.instance.requests();
        assert!(requests.iter().all(|seen| seen.target() == "/next"), "{request}");
    }
}

#[tokio::test]
async fn a_first_line_that_is_too_long_is_refused_before_it_is_whole() {
    let front = Front::new().await;
    for request in [
        format!("GET /{} {END}", "a".repeat(70_000)),
        "A".repeat(300_000),
        format!("GET /{}", "a".repeat(300_000)),
    ] {
        let said = front.says(&request).await;
        let statuses = said.statuses();
        assert!(matches!(statuses[..], [400 | 414 | 431]), "{} {statuses:?}", &request[..10]);
        assert!(said.ended && front.instance.requests().is_empty());
    }
}
