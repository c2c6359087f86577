// What every implementation has to do, of whichever `Callback` is there.

impl Callback {
    /// The answer of the service to a request with these headers.
    async fn send(&self, path: &str, headers: &[(&str, &str)]) -> String {
        let mut stream = TcpStream::connect(self.service).await.unwrap();
        let mut text = format!(
            "POST {path} HTTP/1.1\r\nhost: service\r\nconnection: close\r\ncontent-length: 0\r\n"
        );
        for (name, value) in headers {
            text.push_str(&format!("{name}:{value}\r\n"));
        }
        stream.write_all(format!("{text}\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    /// What the service called back with, when it was asked to do so some times.
    async fn calls(&self, times: usize, headers: &[(&str, &str)]) -> Vec<Called> {
        let listener = self.listener.lock().await;
        let received = async {
            let mut calls = Vec::new();
            // The client under test keeps its connection, and may use it or another one.
            let (mut stream, _) = listener.accept().await.unwrap();
            while calls.len() < times {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => (stream, _) = listener.accept().await.unwrap(),
                    }
                }
                calls.push(Called(String::from_utf8(head).unwrap()));
                let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                stream.shutdown().await.unwrap();
            }
            calls
        };
        let path = format!("/{times}");
        let both = async { tokio::join!(received, self.send(&path, headers)).0 };
        timeout(Duration::from_secs(120), both).await.unwrap()
    }

    async fn call(&self, headers: &[(&str, &str)]) -> Called {
        self.calls(1, headers).await.remove(0)
    }
}

/// The head of a request to the callback.
struct Called(String);

impl Called {
    fn values(&self, name: &str) -> Vec<&str> {
        let lines = self.0.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(found, _)| *found == name).map(|(_, value)| value.trim()).collect()
    }

    /// Version, trace, span and flags of the one `traceparent`.
    fn parent(&self) -> [&str; 4] {
        let values = self.values("traceparent");
        let [value] = values[..] else { panic!("{values:?}") };
        let parts: Vec<_> = value.split('-').collect();
        let lengths: Vec<_> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [2, 32, 16, 2], "{value}");
        let digits = value.bytes().filter(|byte| *byte != b'-');
        assert!(digits.clone().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
        assert!(
            parts[1].bytes().any(|byte| byte != b'0') && parts[2].bytes().any(|byte| byte != b'0')
        );
        [parts[0], parts[1], parts[2], parts[3]]
    }

    fn trace(&self) -> &str {
        let [version, trace, span, _] = self.parent();
        assert_eq!(version, "00");
        assert_ne!(span, SPAN, "it is a span of its own");
        trace
    }

    /// Keys and values of all `tracestate` headers, in their order.
    fn state(&self) -> Vec<(&str, &str)> {
        let values = self.values("tracestate");
        let members = values.into_iter().flat_map(|value| value.split(','));
        members.filter_map(|member| member.trim_matches([' ', '\t']).split_once('=')).collect()
    }
}

fn parent() -> String {
    format!("00-{TRACE}-{SPAN}-00")
}

#[tokio::test]
async fn a_request_without_headers_begins_a_trace_and_one_with_a_parent_continues_it() {
    let callback = Callback::new().await;
    assert_ne!(callback.call(&[]).await.trace(), TRACE);
    for flags in ["00", "01", "02", "03"] {
        let called = callback.call(&[("traceparent", &format!("00-{TRACE}-{SPAN}-{flags}"))]).await;
        assert_eq!(called.trace(), TRACE);
        assert_eq!(called.parent()[3], flags, "also the flag of random identifiers, of level 2");
    }
    // Flags of the future are not known here, and not passed on.
    let called = callback.call(&[("traceparent", &format!("00-{TRACE}-{SPAN}-ff"))]).await;
    assert_eq!((called.trace(), called.parent()[3]), (TRACE, "03"));
}

#[tokio::test]
async fn names_of_headers_are_of_any_case_and_of_no_other_spelling() {
    let callback = Callback::new().await;
    for name in ["TraceParent", "TrAcEpArEnT", "TRACEPARENT"] {
        assert_eq!(callback.call(&[(name, &parent())]).await.trace(), TRACE, "{name}");
    }
    for name in ["trace-parent", "trace.parent"] {
        assert_ne!(callback.call(&[(name, &parent())]).await.trace(), TRACE, "{name}");
    }
    for name in ["TraceState", "TrAcEsTaTe", "TRACESTATE"] {
        let called = callback.call(&[("traceparent", &parent()), (name, "foo=1")]).await;
        assert_eq!(called.state(), [("foo", "1")], "{name}");
    }
    for name in ["trace-state", "trace.state"] {
        let called = callback.call(&[("traceparent", &parent()), (name, "foo=1")]).await;
        assert_eq!(called.state(), [], "{name}");
    }
}

#[tokio::test]
async fn a_parent_that_is_malformed_or_there_twice_begins_a_new_trace() {
    let callback = Callback::new().await;
    let other = format!("00-{}1-{SPAN}-01", &TRACE[..31]);
    let twice = [("traceparent", &*parent()), ("traceparent", &other)];
    let called = callback.call(&twice).await;
    assert!(!called.trace().starts_with(&TRACE[..31]));
    for bad in [
        // Of the version that is known nothing may follow.
        format!("00-{TRACE}-{SPAN}-01."),
        format!("00-{TRACE}-{SPAN}-01-what-the-future-will-be-like"),
        // Of a later one only after a dash.
        format!("cc-{TRACE}-{SPAN}-01.what-the-future-will-be-like"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!(".0-{TRACE}-{SPAN}-01"),
        format!("0.-{TRACE}-{SPAN}-01"),
        format!("000-{TRACE}-{SPAN}-01"),
        format!("0000-{TRACE}-{SPAN}-01"),
        format!("0-{TRACE}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-.{}-{SPAN}-01", &TRACE[1..]),
        format!("00-{}.-{SPAN}-01", &TRACE[..31]),
        format!("00-{TRACE}3-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", &TRACE[..31]),
        format!("00-{TRACE}-0000000000000000-01"),
        format!("00-{TRACE}-.{}-01", &SPAN[1..]),
        format!("00-{TRACE}-{}.-01", &SPAN[..15]),
        format!("00-{TRACE}-{SPAN}7-01"),
        format!("00-{TRACE}-{}-01", &SPAN[..15]),
        format!("00-{TRACE}-{SPAN}-.0"),
        format!("00-{TRACE}-{SPAN}-0."),
        format!("00-{TRACE}-{SPAN}-001"),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("00-{}-{SPAN}-01", "ABCDEF78901234567890123456789012"),
        String::new(),
    ] {
        let called = callback.call(&[("traceparent", &bad), ("tracestate", "foo=1")]).await;
        let trace = called.trace().to_uppercase();
        assert!(!trace.contains(&TRACE[1..31]) && !trace.starts_with("ABCDEF789"), "{bad}");
        assert_eq!(called.state(), [], "{bad}");
    }
}

#[tokio::test]
async fn a_later_version_is_read_as_far_as_it_is_known() {
    let callback = Callback::new().await;
    for tail in ["", "-what-the-future-will-be-like"] {
        let later = format!("cc-{TRACE}-{SPAN}-01{tail}");
        assert_eq!(callback.call(&[("traceparent", &later)]).await.trace(), TRACE);
    }
}

#[tokio::test]
async fn white_space_around_values_is_none_of_them() {
    let callback = Callback::new().await;
    for (before, after) in [(" ", ""), ("\t", ""), ("", " "), ("", "\t"), ("\t ", " \t")] {
        let value = format!("{before}{}{after}", parent());
        assert_eq!(callback.call(&[("traceparent", &value)]).await.trace(), TRACE, "{value:?}");
        let state = format!("{before}foo=1{after}");
        let called = callback.call(&[("traceparent", &parent()), ("tracestate", &state)]).await;
        assert_eq!(called.state(), [("foo", "1")], "{state:?}");
    }
    for state in ["foo=1 \t , \t bar=2, \t baz=3", "foo=1\t \t,\t \tbar=2,\t \tbaz=3"] {
        let called = callback.call(&[("traceparent", &parent()), ("tracestate", state)]).await;
        assert_eq!(called.state(), [("foo", "1"), ("bar", "2"), ("baz", "3")]);
    }
}

#[tokio::test]
async fn a_state_goes_along_with_its_parent_in_order_and_not_without() {
    let callback = Callback::new().await;
    for state in ["foo=1", "foo=1,bar=2"] {
        assert_eq!(callback.call(&[("tracestate", state)]).await.state(), []);
    }
    let parent = parent();
    let with = async |states: &[&str]| {
        let mut headers = vec![("traceparent", &*parent)];
        headers.extend(states.iter().map(|state| ("tracestate", *state)));
        let called = callback.call(&headers).await;
        assert_eq!(called.trace(), TRACE, "whatever becomes of the state");
        called.state().iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(with(&["foo=1,bar=2"]).await, ["foo=1", "bar=2"]);
    assert!(with(&[""]).await.is_empty());
    assert_eq!(with(&["foo=1", ""]).await, ["foo=1"]);
    assert_eq!(with(&["", "foo=1"]).await, ["foo=1"]);
    let several = with(&["foo=1,bar=2", "rojo=1,congo=2", "baz=3"]).await;
    assert_eq!(several, ["foo=1", "bar=2", "rojo=1", "congo=2", "baz=3"]);
    // A key that is there twice may stay so, and the list must not be lost.
    for twice in [&["foo=1,foo=1"][..], &["foo=1,foo=2"], &["foo=1", "foo=1"], &["foo=1", "foo=2"]]
    {
        assert_eq!(with(twice).await[0], "foo=1");
    }
}

#[tokio::test]
async fn a_state_is_passed_on_or_dropped_by_its_grammar_and_limits() {
    let callback = Callback::new().await;
    let parent = parent();
    let with = async |states: &[&str]| {
        let mut headers = vec![("traceparent", &*parent)];
        headers.extend(states.iter().map(|state| ("tracestate", *state)));
        callback.call(&headers).await.values("tracestate").join(",")
    };
    let key = "abcdefghijklmnopqrstuvwxyz0123456789_-*/";
    let value: String = (' '..='~').filter(|byte| !matches!(byte, ',' | '=')).collect();
    let tens: Vec<String> = (0..3)
        .map(|ten| {
            (1..=10).map(|n| format!("bar{:02}={n}", 10 * ten + n)).collect::<Vec<_>>().join(",")
        })
        .collect();
    for good in [
        &*format!("{key}={value}"),
        &format!("{key}@a-z0-9_-*/={value}"),
        &format!("foo=1,{}=1", "z".repeat(256)),
        &format!("foo=1,{}@{}=1", "t".repeat(241), "v".repeat(14)),
        &format!("foo=1,{}@v=1", "t".repeat(242)),
        &format!("foo=1,t@{}=1", "v".repeat(15)),
        "foo@=1,bar=2",
        "foo@@bar=1,bar=2",
        "foo@bar@baz=1,bar=2",
    ] {
        assert_eq!(with(&[good]).await, good);
    }
    for bad in ["foo =1", "FOO=1", "foo.bar=1", "@foo=1,bar=2", "foo=bar=baz", "foo=,bar=3"] {
        assert_eq!(with(&[bad]).await, "", "{bad}");
    }
    assert_eq!(with(&["foo=1", &format!("{}=1", "z".repeat(257))]).await, "");
    let all = with(&[&tens[0], &tens[1], &tens[2], "bar31=31,bar32=32"]).await;
    assert_eq!(all.split(',').count(), 32);
    assert_eq!(with(&[&tens[0], &tens[1], &tens[2], "bar31=31,bar32=32,bar33=33"]).await, "");
}

#[tokio::test]
async fn each_call_that_a_request_makes_is_a_span_of_its_own_in_one_trace() {
    let callback = Callback::new().await;
    let zero = format!("00-{}-{SPAN}-01", "0".repeat(32));
    for (headers, continues) in [
        (&[("traceparent", &*parent())][..], true),
        (&[], false),
        (&[("traceparent", &*zero)], false),
    ] {
        let calls = callback.calls(3, headers).await;
        let traces: HashSet<_> = calls.iter().map(Called::trace).collect();
        let spans: HashSet<_> = calls.iter().map(|called| called.parent()[2]).collect();
        assert_eq!((traces.len(), spans.len()), (1, 3));
        assert_eq!(traces.contains(TRACE), continues);
    }
}
