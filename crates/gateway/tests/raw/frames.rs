//! Frames of HTTP/2 that break RFC 9113, by its sections.
//!
//! The codec is h2's. It lets three things pass that do no harm: a connection that begins without settings, frames of a request that was reset, and pseudo fields in trailers, which it drops; and it
//! says `PROTOCOL_ERROR` where the RFC has a narrower code.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::client::{Front, SOON};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const MORE: u8 = 9;

// Flags. An acknowledgement has that of the end of a stream.
const END: u8 = 1;
const ACK: u8 = 1;
const WHOLE: u8 = 4;
const PADDED: u8 = 8;

// Errors.
const PROTOCOL: u32 = 1;
const FLOW: u32 = 3;
const CLOSED: u32 = 5;
const SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields by HPACK, each a literal that is not indexed (RFC 7541, 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/a"), (":authority", "a")];

fn get_with(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&GET[..], more].concat())
}

/// A whole request.
fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE | END, stream, block(&GET))
}

/// A request whose body follows.
fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, get_with(more))
}

/// What a server says to frames that break the rules.
#[derive(Debug, Default)]
struct Reply {
    /// Requests that an instance has answered with 200, by their streams.
    ok: Vec<u32>,
    /// Those that were answered otherwise.
    refused: Vec<u32>,
    resets: Vec<(u32, u32)>,
    /// The error that the connection was ended with.
    gone: Option<u32>,
    ended: bool,
    acknowledged: usize,
    pongs: Vec<Vec<u8>>,
}

impl Reply {
    fn is_error(&self, codes: &[u32]) -> bool {
        match self.gone {
            Some(code) => codes.contains(&code),
            None => self.ended || self.resets.iter().any(|(_, code)| codes.contains(code)),
        }
    }
}

/// Sends the preface, `frames`, and a ping; reads until that is answered, or there is an error.
async fn asked(front: &Front, frames: &[Vec<u8>]) -> Reply {
    let last = frame(PING, 0, 0, *b"the last");
    let settings = frame(SETTINGS, 0, 0, []);
    talked(front, &[PREFACE, &settings, &frames.concat(), &last].concat()).await
}

async fn talked(front: &Front, bytes: &[u8]) -> Reply {
    let (mut reader, mut writer) = TcpStream::connect(front.address).await.unwrap().into_split();
    let bytes = bytes.to_vec();
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let mut reply = Reply::default();
    while let Some((kind, flags, stream, payload)) = timeout(SOON, read(&mut reader)).await.unwrap()
    {
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            HEADERS if payload[0] == 0x88 => reply.ok.push(stream),
            HEADERS => reply.refused.push(stream),
            RESET => {
                reply.resets.push((stream, code(0)));
                return reply;
            }
            GOAWAY => {
                reply.gone = Some(code(4));
                return reply;
            }
            SETTINGS if flags & ACK != 0 => reply.acknowledged += 1,
            PING if flags & ACK != 0 && payload == b"the last" => return reply,
            PING if flags & ACK != 0 => reply.pongs.push(payload),
            _ => {}
        }
    }
    reply.ended = true;
    drop(writing);
    reply
}

/// A frame, or nothing at the end.
async fn read(reader: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    reader.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    reader.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
    Some((head[3], head[4], stream, payload))
}

/// What breaks a rule, the errors that it may be, and the frames that do it.
type Case<'c> = (&'c str, &'c [u32], &'c [Vec<u8>]);

async fn wrong(cases: &[Case<'_>]) {
    let front = Front::new().await;
    let settings = frame(SETTINGS, 0, 0, []);
    for (name, codes, frames) in cases {
        let reply = talked(&front, &[PREFACE, &settings, &frames.concat()].concat()).await;
        assert!(reply.is_error(codes), "{name}: {reply:?}");
    }
}

#[tokio::test]
async fn requests_are_answered_and_settings_and_pings_acknowledged() {
    let front = Front::new().await;
    let reply =
        asked(&front, &[frame(PING, 0, 0, *b"12345678"), frame(PING, ACK, 0, *b"unasked!")]).await;
    assert_eq!(
        (reply.acknowledged, &reply.pongs[..], reply.gone),
        (1, &[b"12345678".to_vec()][..], None)
    );
    // A request of each kind, and after them one that shows that the connection is well.
    let padded = [&[3][..], &get_with(&[]), &[0; 3]].concat();
    let block = get_with(&[("x-long", &"y".repeat(100))]);
    let frames = [
        get(1),
        frame(HEADERS, WHOLE | END | PADDED, 3, padded),
        [
            frame(HEADERS, END, 5, &block[..9]),
            frame(MORE, 0, 5, &block[9..30]),
            frame(MORE, WHOLE, 5, &block[30..]),
        ]
        .concat(),
        [post(7, &[]), frame(DATA, 0, 7, b"hi"), frame(DATA, END, 7, [])].concat(),
        [post(9, &[("content-length", "2")]), frame(DATA, PADDED | END, 9, b"\x01hi\0")].concat(),
        [
            post(11, &[("te", "trailers")]),
            frame(DATA, 0, 11, b"hi"),
            frame(HEADERS, WHOLE | END, 11, block_of("x-sum", "1")),
        ]
        .concat(),
    ];
    let reply = until_answered(&front, &frames, 6).await;
    assert_eq!((reply.ok.len(), reply.gone), (6, None), "{reply:?}");
    let requests = front.instance.requests();
    assert_eq!(requests.len(), 6);
    let bodies = requests.iter().filter(|request| request.body == b"hi").count();
    assert_eq!(bodies, 3);
    assert!(
        requests.iter().any(|request| request.trailers == [("x-sum".to_owned(), "1".to_owned())])
    );
}

fn block_of(name: &str, value: &str) -> Vec<u8> {
    block(&[(name, value)])
}

/// As [`asked`], but the last word is said when so many answers are there.
async fn until_answered(front: &Front, frames: &[Vec<u8>], answers: usize) -> Reply {
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let settings = frame(SETTINGS, 0, 0, []);
    stream.write_all(&[PREFACE, &settings, &frames.concat()].concat()).await.unwrap();
    let mut reply = Reply::default();
    while reply.ok.len() + reply.refused.len() + reply.resets.len() < answers {
        let Some((kind, _, stream, payload)) = timeout(SOON, read(&mut stream)).await.unwrap()
        else {
            break;
        };
        match kind {
            HEADERS if payload[0] == 0x88 => reply.ok.push(stream),
            HEADERS => reply.refused.push(stream),
            RESET => reply.resets.push((stream, u32::from_be_bytes(payload.try_into().unwrap()))),
            GOAWAY => reply.gone = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
            _ => {}
        }
    }
    reply
}

#[tokio::test]
async fn what_is_not_known_is_ignored() {
    let front = Front::new().await;
    for frames in [
        vec![frame(0xf0, 0xff, 0, b"what"), frame(0xf1, 0, 77, b"what")],
        vec![frame(SETTINGS, 0, 0, [0, 0xff, 0, 0, 0, 1])],
        vec![frame(PING, 0xfe, 0, *b"12345678")],
        vec![frame(PRIORITY, 0, 1, [0, 0, 0, 0, 5])],
        vec![frame(PING, 0, 1 << 31, *b"12345678")],
        vec![frame(WINDOW, 0, 0, [0x80, 0, 0, 1])],
        vec![frame(GOAWAY, 0, 0, [0; 8])],
    ] {
        let reply = asked(&front, &frames).await;
        assert!(reply.gone.is_none() || reply.gone == Some(0), "{frames:?} {reply:?}");
    }
}

/// Sections 3.4, 4 and 6.
#[tokio::test]
async fn frames_that_are_not_well_formed_are_errors_of_the_connection() {
    let big = vec![0; 20_000];
    wrong(&[
        (
            "4.2 data above the largest frame",
            &[SIZE, PROTOCOL],
            &[post(1, &[]), frame(DATA, END, 1, &big)],
        ),
        (
            "4.2 headers above the largest frame",
            &[SIZE, PROTOCOL],
            &[frame(HEADERS, WHOLE | END, 1, &big)],
        ),
        (
            "4.3 an index that does not exist",
            &[COMPRESSION, PROTOCOL],
            &[frame(HEADERS, WHOLE | END, 1, [0x80])],
        ),
        (
            "4.3 an index beyond the table",
            &[COMPRESSION, PROTOCOL],
            &[frame(HEADERS, WHOLE | END, 1, [0xff, 0xff, 0x7f])],
        ),
        (
            "4.3 a name that is cut",
            &[COMPRESSION, PROTOCOL],
            &[frame(HEADERS, WHOLE | END, 1, [0, 50, b'x'])],
        ),
        (
            "4.3 a table larger than agreed",
            &[COMPRESSION, PROTOCOL],
            &[frame(
                HEADERS,
                WHOLE | END,
                1,
                [&[0x3f, 0xff, 0xff, 0x7f][..], &block(&GET)].concat(),
            )],
        ),
        (
            "4.3 another frame in the middle of a head",
            &[PROTOCOL],
            &[frame(HEADERS, END, 1, block(&GET)), frame(PRIORITY, 0, 1, [0; 5])],
        ),
        (
            "4.3 another head in the middle of a head",
            &[PROTOCOL],
            &[frame(HEADERS, END, 1, block(&GET)), get(3)],
        ),
        ("6.1 data of no stream", &[PROTOCOL], &[frame(DATA, END, 0, b"hi")]),
        (
            "6.1 more padding than there is",
            &[PROTOCOL],
            &[post(1, &[]), frame(DATA, PADDED | END, 1, b"\x05hi")],
        ),
        ("6.2 headers of no stream", &[PROTOCOL], &[get(0)]),
        (
            "6.2 more padding than there is",
            &[PROTOCOL],
            &[frame(HEADERS, WHOLE | END | PADDED, 1, [&[200][..], &block(&GET)].concat())],
        ),
        ("6.3 a priority of no stream", &[PROTOCOL], &[frame(PRIORITY, 0, 0, [0; 5])]),
        ("6.3 a priority of another length", &[SIZE, PROTOCOL], &[frame(PRIORITY, 0, 1, [0; 4])]),
        ("6.4 a reset of no stream", &[PROTOCOL], &[frame(RESET, 0, 0, [0; 4])]),
        ("6.4 a reset of a stream that is idle", &[PROTOCOL], &[frame(RESET, 0, 1, [0; 4])]),
        (
            "6.4 a reset of another length",
            &[SIZE, PROTOCOL],
            &[post(1, &[]), frame(RESET, 0, 1, [0; 3])],
        ),
        (
            "6.5 an acknowledgement that says something",
            &[SIZE, PROTOCOL],
            &[frame(SETTINGS, ACK, 0, [0; 6])],
        ),
        ("6.5 settings of a stream", &[PROTOCOL], &[frame(SETTINGS, 0, 1, [0; 6])]),
        ("6.5 settings of another length", &[SIZE, PROTOCOL], &[frame(SETTINGS, 0, 0, [0; 5])]),
        (
            "6.5.2 push is neither on nor off",
            &[PROTOCOL],
            &[frame(SETTINGS, 0, 0, [0, 2, 0, 0, 0, 2])],
        ),
        (
            "6.5.2 a window above the largest",
            &[FLOW, PROTOCOL],
            &[frame(SETTINGS, 0, 0, [0, 4, 0x80, 0, 0, 0])],
        ),
        (
            "6.5.2 a frame below the smallest",
            &[PROTOCOL],
            &[frame(SETTINGS, 0, 0, [0, 5, 0, 0, 0x3f, 0xff])],
        ),
        (
            "6.5.2 a frame above the largest",
            &[PROTOCOL],
            &[frame(SETTINGS, 0, 0, [0, 5, 1, 0, 0, 0])],
        ),
        (
            "6.6 a push of a client",
            &[PROTOCOL],
            &[frame(PUSH, WHOLE, 1, [&[0, 0, 0, 2][..], &block(&GET)].concat())],
        ),
        ("6.7 a ping of a stream", &[PROTOCOL], &[frame(PING, 0, 1, [0; 8])]),
        ("6.7 a ping of another length", &[SIZE, PROTOCOL], &[frame(PING, 0, 0, [0; 6])]),
        ("6.8 a goodbye of a stream", &[PROTOCOL], &[frame(GOAWAY, 0, 1, [0; 8])]),
        ("6.9 a window of nothing", &[PROTOCOL], &[frame(WINDOW, 0, 0, [0; 4])]),
        (
            "6.9 a window of nothing, of a stream",
            &[PROTOCOL],
            &[post(1, &[]), frame(WINDOW, 0, 1, [0; 4])],
        ),
        ("6.9 a window of another length", &[SIZE, PROTOCOL], &[frame(WINDOW, 0, 0, [0; 3])]),
        (
            "6.9 a window of a stream that is idle",
            &[PROTOCOL],
            &[frame(WINDOW, 0, 1, [0, 0, 0, 1])],
        ),
        (
            "6.9.1 a window above the largest",
            &[FLOW, PROTOCOL],
            &[frame(WINDOW, 0, 0, [0x7f, 0xff, 0xff, 0xff])],
        ),
        (
            "6.9.1 a window above the largest, of a stream",
            &[FLOW, PROTOCOL],
            &[post(1, &[]), frame(WINDOW, 0, 1, [0x7f, 0xff, 0xff, 0xff])],
        ),
        (
            "6.10 more of a head that was whole",
            &[PROTOCOL],
            &[get(1), frame(MORE, WHOLE, 1, block(&GET))],
        ),
        (
            "6.10 more of no stream",
            &[PROTOCOL],
            &[frame(HEADERS, END, 1, block(&GET)), frame(MORE, WHOLE, 0, [])],
        ),
        ("6.10 more of nothing", &[PROTOCOL], &[frame(MORE, WHOLE, 1, block(&GET))]),
    ])
    .await;
}

/// Section 5.
#[tokio::test]
async fn frames_that_a_stream_does_not_expect_are_errors() {
    wrong(&[
        ("5.1 data of an idle stream", &[PROTOCOL], &[frame(DATA, END, 1, b"hi")]),
        ("5.1 data after the end", &[CLOSED, PROTOCOL], &[get(1), frame(DATA, END, 1, b"hi")]),
        ("5.1 a head after the end", &[CLOSED, PROTOCOL], &[get(1), get(1)]),
        ("5.1.1 a stream of an even number", &[PROTOCOL], &[get(2)]),
        ("5.1.1 a stream below the last", &[PROTOCOL, CLOSED], &[get(5), get(3)]),
        (
            "8.1 a second head without an end",
            &[PROTOCOL],
            &[post(1, &[]), frame(HEADERS, WHOLE, 1, block(&[("x", "1")]))],
        ),
    ])
    .await;
}

/// Section 8: the request alone is wrong. It is reset, or answered with an error.
#[tokio::test]
async fn requests_that_are_malformed_never_reach_an_instance() {
    let front = Front::new().await;
    let heads: [(&str, Vec<u8>); 26] = [
        ("a name in upper case", get_with(&[("X-A", "1")])),
        ("a name with a space", get_with(&[("x a", "1")])),
        ("a name with a colon", get_with(&[("x:a", "1")])),
        ("an empty name", get_with(&[("", "1")])),
        ("a value with CR", get_with(&[("x", "a\rb")])),
        ("a value with LF", get_with(&[("x", "a\nGET /evil HTTP/1.1")])),
        ("a value with NUL", get_with(&[("x", "a\0b")])),
        ("an unknown pseudo field", get_with(&[(":x", "1")])),
        ("a pseudo field of answers", get_with(&[(":status", "200")])),
        ("a pseudo field after others", block(&[GET[0], GET[1], ("x", "1"), GET[2], GET[3]])),
        ("connection", get_with(&[("connection", "close")])),
        ("keep-alive", get_with(&[("keep-alive", "5")])),
        ("proxy-connection", get_with(&[("proxy-connection", "close")])),
        ("transfer-encoding", get_with(&[("transfer-encoding", "chunked")])),
        ("upgrade", get_with(&[("upgrade", "websocket")])),
        ("te that is not trailers", get_with(&[("te", "gzip")])),
        ("an empty path", block(&[GET[0], GET[1], (":path", ""), GET[3]])),
        ("no method", block(&GET[1..])),
        ("no scheme", block(&[GET[0], GET[2], GET[3]])),
        ("no path", block(&[GET[0], GET[1], GET[3]])),
        ("two methods", block(&[GET[0], GET[0], GET[1], GET[2], GET[3]])),
        ("two paths", block(&[GET[0], GET[1], GET[2], GET[2], GET[3]])),
        ("a path that is none", block(&[GET[0], GET[1], (":path", "a"), GET[3]])),
        ("a path with a space", block(&[GET[0], GET[1], (":path", "/a HTTP/1.1\r\nX: "), GET[3]])),
        ("an authority with a user", block(&[GET[0], GET[1], GET[2], (":authority", "u@a")])),
        ("no authority and no host", block(&GET[..3])),
    ];
    for (name, head) in heads {
        let reply = until_answered(&front, &[frame(HEADERS, WHOLE | END, 1, head)], 1).await;
        assert!(reply.ok.is_empty(), "{name} {reply:?}");
        assert!(front.instance.requests().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_body_is_as_long_as_its_length_says_or_never_whole() {
    let front = Front::new().await;
    for (length, frames) in [
        ("1", vec![frame(DATA, END, 1, b"hi")]),
        ("3", vec![frame(DATA, END, 1, b"hi")]),
        ("1", vec![frame(DATA, 0, 1, b"h"), frame(DATA, END, 1, b"i")]),
        ("5", vec![frame(DATA, 0, 1, b"hi"), frame(HEADERS, WHOLE | END, 1, block(&[("x", "1")]))]),
        ("x", vec![frame(DATA, END, 1, b"hi")]),
        ("-2", vec![frame(DATA, END, 1, b"hi")]),
    ] {
        let sent = [vec![post(1, &[("content-length", length)])], frames].concat();
        let reply = until_answered(&front, &sent, 1).await;
        assert!(reply.ok.is_empty(), "{length} {reply:?}");
        assert!(front.instance.requests().is_empty(), "{length}");
    }
    let two = post(1, &[("content-length", "2"), ("content-length", "3")]);
    let reply = until_answered(&front, &[two, frame(DATA, END, 1, b"hi")], 1).await;
    assert!(reply.ok.is_empty() && front.instance.requests().is_empty(), "{reply:?}");
}

#[tokio::test]
async fn trailers_that_others_would_decide_by_do_not_go_on() {
    let front = Front::new().await;
    let fields =
        [("host", "evil"), ("content-length", "9"), ("x-gusset-subject", "root"), ("x-sum", "1")];
    for pseudo in [None, Some((":path", "/evil"))] {
        let trailers = block(&pseudo.into_iter().chain(fields).collect::<Vec<_>>());
        let sent =
            [post(1, &[]), frame(DATA, 0, 1, b"hi"), frame(HEADERS, WHOLE | END, 1, trailers)];
        until_answered(&front, &sent, 1).await;
        for request in front.instance.requests() {
            assert_eq!(request.target(), "/a");
            assert_eq!(request.trailers, [("x-sum".to_owned(), "1".to_owned())]);
        }
    }
}

#[tokio::test]
async fn more_requests_at_once_than_agreed_are_refused() {
    let front = Front::new().await;
    let frames: Vec<_> = (0..200).map(|n| post(2 * n + 1, &[])).collect();
    let reply = asked(&front, &frames).await;
    assert!(reply.is_error(&[REFUSED, PROTOCOL, CALM]), "{reply:?}");
}

/// An answer waits for the window of its client, and what the client takes back is taken back.
#[tokio::test]
async fn an_answer_does_not_go_beyond_the_window_of_its_client() {
    let front = Front::new().await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    // No stream may have a byte at first, then one, then the rest. The body of the answer is "/a".
    let settings = frame(SETTINGS, 0, 0, [0, 4, 0, 0, 0, 0]);
    stream.write_all(&[PREFACE, &settings, &get(1)].concat()).await.unwrap();
    let (mut body, mut heads) = (Vec::new(), 0);
    while let Some((kind, flags, _, payload)) = timeout(SOON, read(&mut stream)).await.unwrap() {
        match kind {
            HEADERS => {
                heads += 1;
                stream.write_all(&frame(WINDOW, 0, 1, [0, 0, 0, 1])).await.unwrap();
            }
            DATA => {
                assert!(payload.len() <= 1 || !body.is_empty(), "{payload:?}");
                body.extend_from_slice(&payload);
                if flags & END != 0 {
                    break;
                }
                stream.write_all(&frame(WINDOW, 0, 1, [0, 0, 0, 9])).await.unwrap();
            }
            _ => {}
        }
    }
    assert_eq!((heads, &*body), (1, &b"/a"[..]));
}
