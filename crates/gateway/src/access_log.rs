use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    task::{Context, Poll, ready},
    thread::{self, Thread},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{Method, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

/// Lines that wait to be written, and how long they do: so many in that time are 400,000 in a second.
const WAITING: usize = 8192;
const PAUSE: Duration = Duration::from_millis(20);

/// A line for each request, when its answer has ended: a JSON object. Clones write to the same place.
///
/// ```json
/// {"time":1700000000.123,"client":"203.0.113.9","method":"GET","host":"shop.example","path":"/api/orders/7","protocol":"HTTP/1.1","route":"/api/orders/{id}","status":200,"bytes":512,"ms":3.2,"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}
/// ```
///
/// Queries are left out, for they hold secrets more often than paths do. `ms` is the time until the end of the answer. An answer that was cut off has `"cut":true`; where the client left before it had one, there is no
/// status. What cannot be known is left out.
///
/// Lines are written by a thread of its own, so that no request waits for a disk, and together with those of the same 20 ms. At most 8,192 wait; what comes then is left out and [counted](Self::lost).
#[derive(Clone)]
pub struct AccessLog(Arc<Shared>);

struct Shared {
    lines: SyncSender<Order>,
    lost: AtomicU64,
    writer: Thread,
}

enum Order {
    Line(String),
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Writes there.
    ///
    /// # Errors
    ///
    /// If no thread can be had.
    pub fn to(place: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, orders) = sync_channel(WAITING);
        let builder = thread::Builder::new().name("access-log".into());
        let writer = builder.spawn(move || write(&orders, place))?.thread().clone();
        Ok(Self(Arc::new(Shared { lines, lost: AtomicU64::new(0), writer })))
    }

    /// How many lines were left out, because too many waited.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Relaxed)
    }

    /// Waits until everything that was logged before is written, at most for `limit`. It blocks.
    pub fn flush(&self, limit: Duration) {
        const LATE: Duration = Duration::from_millis(5);
        let begun = std::time::Instant::now();
        let (written, is_written) = sync_channel(1);
        let mut order = Order::Flush(written);
        // A place that takes nothing any more leaves no room for an order either.
        while let Err(TrySendError::Full(unsent)) = self.0.lines.try_send(order) {
            if begun.elapsed() >= limit {
                return;
            }
            order = unsent;
            let _ = is_written.recv_timeout(LATE);
        }
        self.0.writer.unpark();
        let _ = is_written.recv_timeout(limit.saturating_sub(begun.elapsed()));
    }

    fn say(&self, line: String) {
        if self.0.lines.try_send(Order::Line(line)).is_err() {
            self.0.lost.fetch_add(1, Relaxed);
        }
    }
}

/// Until all clones are gone.
fn write(orders: &Receiver<Order>, place: impl Write) {
    let mut place = io::BufWriter::with_capacity(64 * 1024, place);
    // Idle, it is woken by the first line.
    while let Ok(first) = orders.recv() {
        carry_out(first, &mut place);
        // From then on it looks by itself, for to be woken for each line costs those who say them more than all the rest.
        loop {
            // A disk that is full is no reason to end.
            let _ = place.flush();
            thread::park_timeout(PAUSE);
            let Ok(next) = orders.try_recv() else { break };
            carry_out(next, &mut place);
            while let Ok(next) = orders.try_recv() {
                carry_out(next, &mut place);
            }
        }
    }
}

fn carry_out(order: Order, place: &mut impl Write) {
    match order {
        Order::Line(line) => drop(place.write_all(line.as_bytes())),
        Order::Flush(written) => {
            let _ = place.flush();
            let _ = written.send(());
        }
    }
}

/// What will be a line. It is written when this is dropped.
pub(crate) struct Entry {
    log: AccessLog,
    begun: Instant,
    client: Option<IpAddr>,
    method: Method,
    host: Option<String>,
    path: String,
    version: Version,
    route: Option<Arc<str>>,
    status: Option<StatusCode>,
    trace: Option<String>,
    bytes: u64,
    whole: bool,
}

impl Entry {
    pub(crate) fn new<B>(
        log: &AccessLog,
        request: &http::Request<B>,
        client: Option<IpAddr>,
    ) -> Box<Self> {
        let host = crate::host::host_of(request.uri(), request.headers());
        Box::new(Self {
            log: log.clone(),
            begun: Instant::now(),
            client,
            method: request.method().clone(),
            host: host.map(str::to_owned),
            path: request.uri().path().to_owned(),
            version: request.version(),
            route: None,
            status: None,
            trace: None,
            bytes: 0,
            whole: false,
        })
    }

    /// The head of the answer is there.
    pub(crate) fn answered(&mut self, status: StatusCode, route: Option<Arc<str>>) {
        (self.status, self.route) = (Some(status), route);
        let trace = gusset_call::Context::current().trace().map(|trace| trace.trace_id());
        self.trace = trace.map(|id| id.to_string());
    }

    fn line(&self) -> Result<String, fmt::Error> {
        let mut line = String::with_capacity(256);
        let time = now().duration_since(UNIX_EPOCH).unwrap_or_default();
        write!(line, "{{\"time\":{}.{:03}", time.as_secs(), time.subsec_millis())?;
        if let Some(client) = self.client {
            write!(line, ",\"client\":\"{client}\"")?;
        }
        text(&mut line, "method", self.method.as_str())?;
        if let Some(host) = &self.host {
            text(&mut line, "host", host)?;
        }
        text(&mut line, "path", &self.path)?;
        write!(line, ",\"protocol\":\"{:?}\"", self.version)?;
        if let Some(route) = &self.route {
            text(&mut line, "route", route)?;
        }
        if let Some(status) = self.status {
            write!(line, ",\"status\":{}", status.as_u16())?;
        }
        // Not as a float, which takes as long to be written as all else.
        let took = self.begun.elapsed().as_micros();
        write!(line, ",\"bytes\":{},\"ms\":{}.{:03}", self.bytes, took / 1000, took % 1000)?;
        if self.status.is_some() && !self.whole {
            line.push_str(",\"cut\":true");
        }
        if let Some(trace) = &self.trace {
            write!(line, ",\"trace_id\":\"{trace}\"")?;
        }
        line.push_str("}\n");
        Ok(line)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Ok(line) = self.line() {
            self.log.say(line);
        }
    }
}

/// A member whose value is a text, escaped.
fn text(line: &mut String, name: &str, value: &str) -> fmt::Result {
    for piece in [",\"", name, "\":\""] {
        line.push_str(piece);
    }
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if value.bytes().all(is_plain) {
        line.push_str(value);
        line.push('"');
        return Ok(());
    }
    for letter in value.chars() {
        match letter {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            // Terminals and JSON take these for something else than text.
            letter if letter.is_control() => write!(line, "\\u{:04x}", u32::from(letter))?,
            letter => line.push(letter),
        }
    }
    line.push('"');
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "people are told of it")]
fn now() -> SystemTime {
    SystemTime::now()
}

pin_project! {
    /// The body of an answer, which is logged when it has ended.
    pub(crate) struct Logged<B> {
        #[pin]
        body: B,
        entry: Option<Box<Entry>>,
    }
}

impl<B: Body> Logged<B> {
    pub(crate) fn new(body: B, mut entry: Option<Box<Entry>>) -> Self {
        if let Some(entry) = &mut entry {
            entry.whole = body.is_end_stream();
        }
        Self { body, entry }
    }
}

impl<B: Body<Data = Bytes, Error = BoxError>> Body for Logged<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if let Some(entry) = this.entry {
            match &frame {
                Some(Ok(frame)) => {
                    entry.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                    entry.whole = this.body.is_end_stream();
                }
                Some(Err(_)) => {}
                None => entry.whole = true,
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("lost", &self.lost()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, mpsc::channel};

    /// A disk that takes nothing until it is let go.
    struct Stuck {
        go: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Once whoever lets it go is gone, it takes everything.
            let _ = self.go.recv();
            if let Ok(mut written) = self.written.lock() {
                written.extend_from_slice(bytes);
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_is_stuck_costs_lines_that_are_counted_and_no_request_waits() {
        let (let_go, go) = channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = AccessLog::to(Stuck { go, written: written.clone() }).unwrap();
        let line = format!("{}\n", "a".repeat(99));
        let mut said = 0;
        // It would never end if one of them waited for the disk.
        while log.lost() < 10 {
            log.say(line.clone());
            said += 1;
        }
        assert!(said > WAITING);
        log.flush(Duration::from_millis(50));
        assert!(written.lock().unwrap().is_empty(), "it has waited for no longer than it may");
        drop(let_go);
        log.flush(Duration::from_secs(60));
        let lines = written.lock().unwrap().len() / line.len();
        assert_eq!(lines as u64 + log.lost(), said as u64, "each is written or counted");
    }

    #[test]
    fn lines_are_written_though_nobody_asks_for_them() {
        let (let_go, go) = channel();
        drop(let_go);
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = AccessLog::to(Stuck { go, written: written.clone() }).unwrap();
        // The first wakes whoever writes, the others are found by it or wake it again.
        for number in 1..=5 {
            log.say("line\n".into());
            let begun = std::time::Instant::now();
            while written.lock().unwrap().len() < 5 * number {
                assert!(begun.elapsed() < Duration::from_secs(60), "line {number}");
                thread::park_timeout(Duration::from_millis(7 * number as u64));
            }
        }
        assert_eq!(log.lost(), 0);
    }

    #[test]
    fn a_text_is_escaped_only_where_it_has_to_be() {
        for (value, escaped) in [
            ("/a?b=~ c", "/a?b=~ c"),
            ("\"", "\\\""),
            ("a\\b", "a\\\\b"),
            ("\n\u{7f}\u{9f}", "\\u000a\\u007f\\u009f"),
            ("ü\u{2028}", "ü\u{2028}"),
        ] {
            let mut line = String::new();
            text(&mut line, "path", value).unwrap();
            assert_eq!(line, format!(",\"path\":\"{escaped}\""));
        }
    }
}
