//! HTTP/1.1 as RFC 9112 writes it, without anything that a recipient may tolerate.

/// A request or an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// The parts of the first line.
    pub(crate) line: [String; 3],
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// It was sent in chunks.
    pub(crate) chunked: bool,
}

impl Message {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let of_name = self.fields.iter().filter(|(field, _)| field == name);
        of_name.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    pub(crate) fn status(&self) -> u16 {
        self.line[1].parse().unwrap_or_default()
    }

    pub(crate) fn target(&self) -> &str {
        &self.line[1]
    }
}

/// Something and how many bytes it takes, nothing while it is not there as a whole, or why it is not right.
pub(crate) type Read<T> = Result<Option<(T, usize)>, String>;

/// The request at the front of `bytes`.
pub(crate) fn request(bytes: &[u8]) -> Read<Message> {
    let Some((mut message, head)) = head(bytes)? else { return Ok(None) };
    let [method, target, version] = &message.line;
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err(format!("the method {method:?}"));
    }
    if !target.starts_with('/') || target.contains(['\\', '#']) || has_dots(target) {
        return Err(format!("the target {target:?}"));
    }
    if version != "HTTP/1.1" {
        return Err(format!("the version {version:?}"));
    }
    if message.all("host").len() != 1 {
        return Err(format!("hosts: {:?}", message.all("host")));
    }
    let Some(length) = body(&mut message, &bytes[head..], Some(0))? else { return Ok(None) };
    Ok(Some((message, head + length)))
}

/// The answer at the front of `bytes`, to a request of `method`. `over` says that no more bytes come.
pub(crate) fn answer(bytes: &[u8], method: &str, over: bool) -> Read<Message> {
    let Some((mut message, head)) = head(bytes)? else { return Ok(None) };
    let status = message.status();
    if !message.line[0].starts_with("HTTP/1.") || !(100..600).contains(&status) {
        return Err(format!("the status line {:?}", message.line));
    }
    if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Some((message, head)));
    }
    let rest = &bytes[head..];
    let until_close =
        (!message.has("content-length") && !message.has("transfer-encoding")).then_some(rest.len());
    if until_close.is_some() && !over {
        return Ok(None);
    }
    let Some(length) = body(&mut message, rest, until_close)? else { return Ok(None) };
    Ok(Some((message, head + length)))
}

fn has_dots(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    path.contains("//") || path.split('/').any(|part| matches!(part, "." | ".."))
}

fn head(bytes: &[u8]) -> Read<Message> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return match find(bytes, b"\n\n") {
            Some(_) => Err("lines that end in LF".into()),
            None => Ok(None),
        };
    };
    let mut lines = split_lines(&bytes[..end + 2])?.into_iter();
    let first = lines.next().ok_or("no line")?;
    let mut parts = first.splitn(3, ' ').map(str::to_owned);
    let line = [(); 3].map(|()| parts.next().unwrap_or_default());
    let fields = lines.map(|line| field(&line)).collect::<Result<_, _>>()?;
    Ok(Some((Message { line, fields, ..Message::default() }, end + 4)))
}

/// The lines of `text`, which ends with one.
fn split_lines(text: &[u8]) -> Result<Vec<String>, String> {
    let text = String::from_utf8_lossy(text).into_owned();
    let lines: Vec<_> = text
        .strip_suffix("\r\n")
        .ok_or("no end of a line")?
        .split("\r\n")
        .map(str::to_owned)
        .collect();
    match lines.iter().find(|line| line.contains(|byte: char| byte != '\t' && byte.is_control())) {
        Some(line) => Err(format!("a control character in {line:?}")),
        None => Ok(lines),
    }
}

fn field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("no field: {line:?}"))?;
    match !name.is_empty() && name.bytes().all(is_token) {
        true => Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned())),
        false => Err(format!("the name of a field {line:?}")),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Reads the body from the front of `bytes` and returns its length on the wire. `unsaid` is that of one that is not told.
fn body(
    message: &mut Message,
    bytes: &[u8],
    unsaid: Option<usize>,
) -> Result<Option<usize>, String> {
    let (lengths, codings) = (message.all("content-length"), message.all("transfer-encoding"));
    let length = match (&lengths[..], &codings[..]) {
        ([], []) => unsaid,
        ([], ["chunked"]) => {
            message.chunked = true;
            return chunks(message, bytes);
        }
        ([digits], []) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok()
        }
        _ => return Err(format!("lengths {lengths:?}, codings {codings:?}")),
    };
    let length: usize = length.ok_or("a length that no message has")?;
    if bytes.len() < length {
        return Ok(None);
    }
    message.body = bytes[..length].to_vec();
    Ok(Some(length))
}

fn chunks(message: &mut Message, bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let digits = std::str::from_utf8(&bytes[at..at + line]).map_err(|_| "a size")?;
        let hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let size = usize::from_str_radix(digits, 16).ok().filter(|_| hex);
        let size = size.ok_or_else(|| format!("the size of a chunk {digits:?}"))?;
        at += line + 2;
        if size == 0 {
            break;
        }
        let Some(data) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if !data.ends_with(b"\r\n") {
            return Err("the end of a chunk".into());
        }
        message.body.extend_from_slice(&data[..size]);
        at += size + 2;
    }
    if bytes[at..].starts_with(b"\r\n") {
        return Ok(Some(at + 2));
    }
    let Some(end) = find(&bytes[at..], b"\r\n\r\n") else { return Ok(None) };
    let lines = split_lines(&bytes[at..at + end + 2])?;
    message.trailers = lines.iter().map(|line| field(line)).collect::<Result<_, _>>()?;
    Ok(Some(at + end + 4))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[test]
fn what_it_takes_is_right_to_the_letter() {
    let (message, length) = request(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: 1\r\n\r\nGET").unwrap().unwrap();
    assert_eq!((message.body.as_slice(), length), (&b"abc"[..], 79 - 3));
    assert_eq!(message.trailers, [("x".to_owned(), "1".to_owned())]);
    for wrong in [
        "GET /a HTTP/1.1\r\n\r\n",
        "GET /a HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET /a HTTP/1.1\nHost: a\n\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET /../a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\n",
    ] {
        assert!(request(wrong.as_bytes()).is_err(), "{wrong}");
    }
}
