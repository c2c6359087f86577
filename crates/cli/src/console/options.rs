use std::net::SocketAddr;

use lexopt::prelude::*;

pub(crate) const HELP: &str = "\
One page in the browser over other processes: instances, breakers, limits, traces, sagas, dead letters, rollouts.

gusset console [OPTIONS]

  --listen ADDR           address and port, port 0 for any free one [127.0.0.1:9000]
  --console [NAME=]URL    a process that serves a console of its own; everything of it
  --gateway [NAME=]URL    the operators' listener of a gusset gateway: routes, instances, circuits
  --sidecar [NAME=]URL    the operators' listener of a gusset sidecar: state, circuits, traces, logs
  --registry URL          a registry by Consul's HTTP API, as gusset registry: services and instances
  --broker PLACE          nats://HOST[:PORT], or a folder whose program is stopped: dead letters
  --saga PLACE            postgres://…, or sqlite:FILE: sagas, and what an operator does about them
  --their-token TOKEN     what all of these are shown [$GUSSET_THEIR_TOKEN]
  --token TOKEN           who shows it may act, and needs it beyond loopback to look [$GUSSET_TOKEN]
  --readers-need-token    also on loopback nobody looks without the token
  --host NAME             a name by which browsers reach it; localhost and addresses need none
  --help                  this text

URL is http://HOST[:PORT][/PATH]. The first three may be given many times; without NAME it is HOST:PORT. Each is asked while somebody looks, once a second, and one that does not
answer within 5 s is named on the page.
SIGTERM or Ctrl-C ends it. The exit code is 0, or 2 if it could not start.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(super) listen: SocketAddr,
    pub(super) others: Vec<(Kind, String, String)>,
    pub(super) registry: Option<String>,
    pub(super) broker: Option<String>,
    pub(super) sagas: Option<String>,
    pub(super) their_token: Option<String>,
    pub(super) token: Option<String>,
    pub(super) readers_need_token: bool,
    pub(super) hosts: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Console,
    Gateway,
    Sidecar,
}

/// Reads what stands behind `console`; none if help is wanted. The tokens are those of the environment.
pub(crate) fn parse(
    args: &mut lexopt::Parser,
    token: Option<String>,
    their_token: Option<String>,
) -> Result<Option<Asked>, lexopt::Error> {
    let mut asked = Asked {
        listen: SocketAddr::from(([127, 0, 0, 1], 9_000)),
        others: Vec::new(),
        registry: None,
        broker: None,
        sagas: None,
        their_token,
        token,
        readers_need_token: false,
        hosts: Vec::new(),
    };
    while let Some(arg) = args.next()? {
        match arg {
            Long("listen") => {
                let address = args.value()?.string()?;
                asked.listen = address.parse().map_err(|_| {
                    format!("--listen: '{address}' is no address with a port, as 127.0.0.1:9000 is")
                })?;
            }
            Long("console") => asked.others.push(other(Kind::Console, &args.value()?.string()?)),
            Long("gateway") => asked.others.push(other(Kind::Gateway, &args.value()?.string()?)),
            Long("sidecar") => asked.others.push(other(Kind::Sidecar, &args.value()?.string()?)),
            Long("registry") => asked.registry = Some(args.value()?.string()?),
            Long("broker") => asked.broker = Some(args.value()?.string()?),
            Long("saga") => asked.sagas = Some(args.value()?.string()?),
            Long("their-token") => asked.their_token = Some(args.value()?.string()?),
            Long("token") => asked.token = Some(args.value()?.string()?),
            Long("readers-need-token") => asked.readers_need_token = true,
            Long("host") => asked.hosts.push(args.value()?.string()?),
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(arg.unexpected()),
        }
    }
    asked.checked().map(Some).map_err(lexopt::Error::from)
}

impl Asked {
    fn checked(mut self) -> Result<Self, String> {
        if self.token.as_ref().is_some_and(String::is_empty) {
            return Err("the token is empty".into());
        }
        if self.token.is_none() && self.readers_need_token {
            return Err("--readers-need-token needs --token or $GUSSET_TOKEN".into());
        }
        if !self.listen.ip().is_loopback() {
            if self.token.is_none() {
                return Err(format!(
                    "not listening on {} without a token: logs and payloads are for whoever reaches it; give one by --token or $GUSSET_TOKEN",
                    self.listen
                ));
            }
            self.readers_need_token = true;
        }
        let mut names: Vec<_> = self.others.iter().map(|(_, name, _)| name).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|two| two[0] == two[1]) {
            return Err(format!("two are called {}; name them by NAME=URL", twice[0]));
        }
        if names.is_empty()
            && self.registry.is_none()
            && self.broker.is_none()
            && self.sagas.is_none()
        {
            return Err("what is there to see? see gusset console --help".into());
        }
        Ok(self)
    }
}

fn other(kind: Kind, text: &str) -> (Kind, String, String) {
    let named = text.split_once('=').filter(|(name, _)| !name.contains([':', '/']));
    let (name, url) = named.unwrap_or_else(|| {
        let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
        (authority.split('/').next().unwrap_or(authority), text)
    });
    (kind, name.to_owned(), url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Option<Asked>, String> {
        let mut args = lexopt::Parser::from_args(line.split_whitespace());
        parse(&mut args, None, None).map_err(|error| error.to_string())
    }

    #[test]
    fn processes_are_called_as_they_are_named_or_by_where_they_are() {
        let asked = asked(
            "--gateway edge=http://10.0.0.7:9090 --sidecar http://10.0.0.8:4191/x --console http://h/?a=b",
        );
        let expected = [
            (Kind::Gateway, "edge".to_owned(), "http://10.0.0.7:9090".to_owned()),
            (Kind::Sidecar, "10.0.0.8:4191".to_owned(), "http://10.0.0.8:4191/x".to_owned()),
            (Kind::Console, "h".to_owned(), "http://h/?a=b".to_owned()),
        ];
        assert_eq!(asked.unwrap().unwrap().others, expected);
    }

    #[test]
    fn beyond_loopback_nobody_looks_without_the_token() {
        let open = "--registry http://localhost:8500 --listen 0.0.0.0:9000";
        assert!(asked(open).unwrap_err().contains("without a token"));
        let guarded = asked(&format!("{open} --token s3cret")).unwrap().unwrap();
        assert!(guarded.readers_need_token);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, why) in [
            ("", "what is there to see"),
            ("--gateway http://h:1 --sidecar http://h:1", "two are called h:1"),
            ("--registry http://h --readers-need-token", "needs --token"),
            ("--registry http://h --listen x", "no address"),
            ("--registry http://h --token=", "empty"),
            ("--nonsense", "--nonsense"),
        ] {
            let said = asked(line).unwrap_err();
            assert!(said.contains(why), "{line}: {said}");
        }
        assert_eq!(asked("--help"), Ok(None));
    }
}
