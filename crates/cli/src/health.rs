//! `gusset health`.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use lexopt::prelude::*;

pub(crate) const HELP: &str = "\
Asks a server whether it is well: for images that have neither a shell nor curl.

gusset health [URL] [--timeout SPAN]

  URL             http://HOST:PORT/PATH, answered with 200 to 299; or tcp://HOST:PORT, where somebody listens [$GUSSET_HEALTH]
  --timeout SPAN  for all of it but the lookup of a name, as 500ms or 2s [2s]
  --help          this text

The exit code is 0 if it is well, 1 if it is not, or 2 if this could not be asked.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Host and port.
    place: String,
    /// None of a server that is well when it listens.
    path: Option<String>,
    timeout: Duration,
}

/// Reads what stands behind `health`; none if help is wanted. `url` is that of the environment.
pub(crate) fn parse(
    args: &mut lexopt::Parser,
    url: Option<String>,
) -> Result<Option<Asked>, lexopt::Error> {
    let (mut url, mut timeout) = (url, Duration::from_secs(2));
    while let Some(arg) = args.next()? {
        match arg {
            Value(given) => url = Some(given.string()?),
            Long("timeout") => timeout = span(&args.value()?.string()?)?,
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(arg.unexpected()),
        }
    }
    let url =
        url.ok_or("which server? http://HOST:PORT/PATH, tcp://HOST:PORT, or $GUSSET_HEALTH")?;
    let (place, path) = of(&url)?;
    Ok(Some(Asked { place, path, timeout }))
}

fn of(url: &str) -> Result<(String, Option<String>), String> {
    let wrong = || format!("'{url}' is neither http://HOST:PORT/PATH nor tcp://HOST:PORT");
    let strange =
        |text: &str| text.is_empty() || text.contains(|c: char| c <= ' ' || c == '\u{7f}');
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let (place, path) = match rest.find('/') {
        Some(at) => (&rest[..at], &rest[at..]),
        None => (rest, ""),
    };
    if strange(place) || place.contains(['@', '?', '#']) || (!path.is_empty() && strange(path)) {
        return Err(wrong());
    }
    let has_port = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match scheme {
        "tcp" if has_port && path.is_empty() => Ok((place.into(), None)),
        "http" => {
            let place = if has_port { place.into() } else { format!("{place}:80") };
            Ok((place, Some(if path.is_empty() { "/".into() } else { path.into() })))
        }
        _ => Err(wrong()),
    }
}

fn span(text: &str) -> Result<Duration, String> {
    let (count, unit) = text.split_at(text.len() - text.trim_start_matches(char::is_numeric).len());
    let count = count.parse::<u64>().ok().filter(|count| *count > 0);
    match (count, unit) {
        (Some(count), "ms") => Ok(Duration::from_millis(count)),
        (Some(count), "s") => Ok(Duration::from_secs(count)),
        _ => Err(format!("--timeout: '{text}' is no time; write 500ms or 2s")),
    }
}

/// Why it is not well, if it is not.
pub(crate) fn run(asked: &Asked) -> Result<(), String> {
    ask(asked, Instant::now()).map_err(|why| format!("{}: {why}", asked.place))
}

fn ask(asked: &Asked, begun: Instant) -> Result<(), String> {
    let left = || match asked.timeout.checked_sub(begun.elapsed()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(format!("no answer within {:?}", asked.timeout)),
    };
    let told = |error: std::io::Error| match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            format!("no answer within {:?}", asked.timeout)
        }
        _ => error.to_string(),
    };
    let mut stream = connect(&asked.place, left)?;
    let Some(path) = &asked.path else { return Ok(()) };
    stream.set_write_timeout(Some(left()?)).map_err(told)?;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: gusset-health\r\nConnection: close\r\n\r\n",
        asked.place
    );
    stream.write_all(head.as_bytes()).map_err(told)?;
    // Of the line that tells the status no more than this is looked at.
    let (mut line, mut length) = ([0; 256], 0);
    while !line[..length].contains(&b'\n') && length < line.len() {
        // A server that trickles has no more time than another one.
        stream.set_read_timeout(Some(left()?)).map_err(told)?;
        match stream.read(&mut line[length..]).map_err(told)? {
            0 => break,
            read => length += read,
        }
    }
    let line = String::from_utf8_lossy(&line[..length]);
    let line = line.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    match (words.next(), words.next().and_then(|status| status.parse::<u16>().ok())) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(200..=299)) => Ok(()),
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) => Err(format!("it answers {status}")),
        _ => Err("what it answers is no HTTP/1.1".into()),
    }
}

fn connect(place: &str, left: impl Fn() -> Result<Duration, String>) -> Result<TcpStream, String> {
    let addresses: Vec<SocketAddr> =
        place.to_socket_addrs().map_err(|error| error.to_string())?.collect();
    let mut why = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, left()?) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    fn read(args: &[&str], url: Option<&str>) -> Result<Option<Asked>, String> {
        parse(&mut lexopt::Parser::from_args(args), url.map(str::to_owned))
            .map_err(|error| error.to_string())
    }

    fn asked(url: &str) -> Asked {
        read(&[url, "--timeout", "30s"], None).unwrap().unwrap()
    }

    /// A server that says this to whoever asks first.
    fn saying(answer: &'static str) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                heard.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(heard).unwrap()
        });
        (place, server)
    }

    #[test]
    fn only_an_answer_of_the_two_hundreds_is_well() {
        for (answer, well) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Ok(())),
            ("HTTP/1.0 204 No Content\r\n\r\n", Ok(())),
            ("HTTP/1.1 302 Found\r\n\r\n", Err("it answers 302")),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Err("it answers 503")),
            ("", Err("what it answers is no HTTP/1.1")),
            ("SSH-2.0-200 200\r\n", Err("what it answers is no HTTP/1.1")),
        ] {
            let (place, server) = saying(answer);
            let result = run(&asked(&format!("http://{place}/readyz")));
            assert_eq!(result, well.map_err(|why| format!("{place}: {why}")), "{answer}");
            let heard = server.join().unwrap();
            assert!(heard.starts_with(&format!("GET /readyz HTTP/1.1\r\nHost: {place}\r\n")));
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_waited_for_no_longer_than_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let url = format!("http://{place}");
        let silent = read(&[&url, "--timeout", "50ms"], None).unwrap().unwrap();
        assert_eq!(run(&silent), Err(format!("{place}: no answer within 50ms")));
        assert_eq!(run(&asked(&format!("tcp://{place}"))), Ok(()));
        drop(listener);
        assert!(run(&asked(&format!("tcp://{place}"))).is_err());
    }

    #[test]
    fn the_url_stands_on_the_command_line_or_in_the_environment() {
        let place_and_path = |result: Result<Option<Asked>, String>| {
            let asked = result.unwrap().unwrap();
            (asked.place, asked.path)
        };
        let environment = Some("http://a:1/x");
        assert_eq!(place_and_path(read(&[], environment)), ("a:1".into(), Some("/x".into())));
        let given = read(&["http://[::1]:2"], environment);
        assert_eq!(place_and_path(given), ("[::1]:2".into(), Some("/".into())));
        assert_eq!(place_and_path(read(&["http://b"], None)), ("b:80".into(), Some("/".into())));
        assert_eq!(read(&["--help"], None), Ok(None));
        for wrong in [
            "",
            "a:1",
            "https://a:1/",
            "tcp://a",
            "tcp://a:1/x",
            "http://",
            "http://a b/",
            "http://u@a/",
            "http://a/\r\nX: 1",
        ] {
            assert!(read(&[wrong], None).unwrap_err().contains("is neither"), "{wrong}");
        }
        assert!(read(&[], None).unwrap_err().contains("$GUSSET_HEALTH"));
        assert!(read(&["tcp://a:1", "--timeout", "0s"], None).unwrap_err().contains("500ms"));
    }
}
