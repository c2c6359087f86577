//! The fields of a request.

use crate::client::Front;

fn with(fields: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")
}

#[tokio::test]
async fn a_field_that_is_not_well_formed_ends_the_connection() {
    let front = Front::new().await;
    for fields in [
        "X : 1",
        "X\t: 1",
        " X: 1",
        "X: 1\r\n folded",
        "X: 1\r\n\tfolded",
        "X: a\rb",
        "X: a\r",
        "X: a\r\r",
        "X: a\0b",
        "X: a\x01b",
        "X: a\x0bb",
        "X: a\x7fb",
        "X\0: 1",
        ": 1",
        ":",
        "X",
        "X 1",
        "X(: 1",
        "X Y: 1",
        "\u{e9}: 1",
        "X\x7f: 1",
        "\"X\": 1",
        "\rX: 1",
        "X\r: 1",
    ] {
        let said = front.says(with(fields)).await;
        assert_eq!(said.statuses(), [400], "{fields:?} {said:?}");
        assert!(said.ended && said.rest.is_empty(), "{fields:?} {said:?}");
        assert!(front.instance.requests().is_empty(), "{fields:?}");
    }
}

#[tokio::test]
async fn what_is_right_goes_on_as_it_is() {
    let front = Front::new().await;
    for (field, value) in [
        ("X: 1", "1"),
        ("X:1", "1"),
        ("X: \t1 \t", "1"),
        ("X: a\tb", "a\tb"),
        ("X:", ""),
        ("X: \"a, b\"; c=d", "\"a, b\"; c=d"),
        ("X: \u{e9}", "\u{e9}"),
        ("X: :", ":"),
    ] {
        let said = front.says(with(field)).await;
        assert_eq!(said.targets(), ["/a", "/next"], "{field:?} {said:?}");
        assert_eq!(front.instance.requests()[0].all("x"), [value], "{field:?}");
    }
    let said = front.says(with("!#$%&'*+-.^_`|~9: 1")).await;
    assert_eq!(said.targets(), ["/a", "/next"]);
    assert_eq!(front.instance.requests()[0].all("!#$%&'*+-.^_`|~9"), ["1"]);
}

/// Recipients may take them (RFC 9112, 2.2); what goes on has the right ones.
#[tokio::test]
async fn lines_that_end_in_lf_alone_are_refused() {
    for request in
        ["GET /a HTTP/1.1\nHost: a\nX: 1\n\n", "GET /a HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n"]
    {
        let front = Front::new().await;
        let said = front.says(request).await;
        assert_eq!((said.statuses(), front.instance.requests().len()), (vec![400], 0));
    }
}

#[tokio::test]
async fn more_head_than_there_may_be_is_431() {
    let front = Front::new().await;
    for fields in [
        format!("X: {}", "a".repeat(40_000)),
        format!("{}: a", "X".repeat(40_000)),
        vec!["X: 1"; 101].join("\r\n"),
        vec!["X: 1"; 10_000].join("\r\n"),
    ] {
        let said = front.says(with(&fields)).await;
        assert!(matches!(said.statuses()[..], [431] | [400]), "{said:?}");
        assert!(said.ended && front.instance.requests().is_empty());
    }
}

#[tokio::test]
async fn a_name_that_reads_like_one_of_the_framing_does_not_go_on() {
    let front = Front::new().await;
    let said = front.says("POST /a HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent_Length: 5\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(said.targets(), ["/a", "/next"]);
    let request = &front.instance.requests()[0];
    assert_eq!(request.body, b"hi");
    assert!(!request.has("transfer_encoding") && !request.has("content_length"), "{request:?}");
}

#[tokio::test]
async fn connection_cannot_take_away_what_others_decide_by() {
    let front = Front::new().await;
    let fields = "Authorization: b\r\nCookie: c\r\nX-Own: d\r\n\
                  Connection: close, host, authorization, cookie, x-own, content-length, x-forwarded-for, via";
    let said = front
        .says(format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n{fields}\r\n\r\nhi"))
        .await;
    assert_eq!(said.targets(), ["/a"], "it was the last by its own word");
    let request = &front.instance.requests()[0];
    for kept in ["host", "authorization", "cookie", "content-length", "x-forwarded-for", "via"] {
        assert!(request.has(kept), "{kept} {request:?}");
    }
    assert!(!request.has("x-own") && !request.has("connection"), "{request:?}");
}
