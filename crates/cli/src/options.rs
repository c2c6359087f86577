use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use gusset_registry::ActiveChecks;
use lexopt::prelude::*;

pub(crate) const HELP: &str = "\
The members of the gusset family that run as a process of their own.

gusset registry [OPTIONS]   a service registry and key-value store over Consul's HTTP API
gusset registry --help      its options
gusset gateway              an API gateway out of a TOML file
gusset gateway --help       its options
gusset sidecar              stands beside a program in any language: found, reached and reaching others through it
gusset sidecar --help       its options
gusset console              one page in the browser over all of these
gusset console --help       its options
gusset deadletters          the messages that groups of a broker could not handle: list, show, redrive, purge
gusset deadletters --help   its options
gusset saga                 the sagas of a program: list, show, retry, skip, supply, turn-back, close
gusset saga --help          its options
gusset health URL           asks a server whether it is well, for images that have no curl
gusset health --help        its options
gusset --version
";

pub(crate) const VERSION: &str = concat!("gusset ", env!("CARGO_PKG_VERSION"), "\n");

pub(crate) const REGISTRY_HELP: &str = "\
A service registry and key-value store over Consul's HTTP API. Without --data-dir what it knows ends with the process.

gusset registry [OPTIONS]

  --listen ADDR   address and port, port 0 for any free one [127.0.0.1:8500]
  --checks WHICH  HTTP, TCP and gRPC checks that clients may have it make: none, instance (of where the instance is), any [instance]
  --data-dir DIR  keeps what it knows: keys before they are acknowledged, instances within a second; for one process at a time
  --tls-cert FILE PEM, with --tls-key: certificates to show, that of this server first; it speaks HTTPS then
  --tls-key FILE  PEM, with --tls-cert: the private key of the certificate
  --token TOKEN   what clients have to show [$GUSSET_TOKEN]; needed to listen on anything but loopback
  --help          this text

It says what it has to say on the standard error output; $GUSSET_LOG is off, error, warn, info, debug or trace [info].
SIGTERM or Ctrl-C answers who waits, finishes what is under way, and ends; a second one ends at once.
The exit code is 0, or 2 if it could not start, or not save what it knew at its end.
";

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Help(&'static str),
    Registry(Registry),
    #[cfg(feature = "gateway")]
    Gateway(crate::gateway::Asked),
    #[cfg(feature = "sidecar")]
    Sidecar(crate::sidecar::Asked),
    Health(crate::health::Asked),
    #[cfg(feature = "console")]
    Console(Box<crate::console::Asked>),
    #[cfg(any(feature = "file", feature = "nats"))]
    DeadLetters(crate::deadletters::DeadLetters),
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    Saga(Box<crate::saga::Asked>),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Registry {
    pub(crate) listen: SocketAddr,
    pub(crate) checks: ActiveChecks,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) token: Option<String>,
    /// Certificates and key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
}

impl Command {
    /// Reads the arguments behind the name of the program; `token` is that of the environment.
    pub(crate) fn parse(
        args: impl IntoIterator<Item = OsString>,
        token: Option<String>,
    ) -> Result<Self, String> {
        let mut args = lexopt::Parser::from_args(args);
        let command = match args.next().map_err(|error| error.to_string())? {
            Some(Value(command)) => command,
            Some(Long("help") | Short('h')) => return Ok(Self::Help(HELP)),
            Some(Long("version") | Short('V')) => return Ok(Self::Help(VERSION)),
            Some(other) => return Err(other.unexpected().to_string()),
            None => return Err("no command".into()),
        };
        match command.to_str() {
            #[cfg(any(feature = "file", feature = "nats"))]
            Some("deadletters") => {
                let nats = std::env::var("GUSSET_NATS").ok();
                let asked = crate::deadletters::parse(&mut args, nats);
                let help = Self::Help(crate::deadletters::HELP);
                asked.map(|a| a.map_or(help, Self::DeadLetters)).map_err(|error| error.to_string())
            }
            #[cfg(not(any(feature = "file", feature = "nats")))]
            Some("deadletters") => {
                Err("this gusset was built without the features file and nats".into())
            }
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            Some("saga") => {
                let asked = crate::saga::parse(&mut args, std::env::var("GUSSET_POSTGRES").ok());
                let help = Self::Help(crate::saga::HELP);
                let saga = |asked| Self::Saga(Box::new(asked));
                asked.map(|asked| asked.map_or(help, saga)).map_err(|error| error.to_string())
            }
            #[cfg(not(any(feature = "sqlite", feature = "postgres")))]
            Some("saga") => {
                Err("this gusset was built without the features sqlite and postgres".into())
            }
            #[cfg(feature = "console")]
            Some("console") => {
                let their_token = std::env::var("GUSSET_THEIR_TOKEN").ok();
                let asked = crate::console::parse(&mut args, token, their_token);
                let help = Self::Help(crate::console::HELP);
                let console = |asked| Self::Console(Box::new(asked));
                asked.map(|asked| asked.map_or(help, console)).map_err(|error| error.to_string())
            }
            #[cfg(not(feature = "console"))]
            Some("console") => Err("this gusset was built without the feature console".into()),
            #[cfg(feature = "gateway")]
            Some("gateway") => {
                let asked = crate::gateway::parse(&mut args);
                let help = Self::Help(crate::gateway::HELP);
                asked
                    .map(|asked| asked.map_or(help, Self::Gateway))
                    .map_err(|error| error.to_string())
            }
            #[cfg(not(feature = "gateway"))]
            Some("gateway") => Err("this gusset was built without the feature gateway".into()),
            #[cfg(feature = "sidecar")]
            Some("sidecar") => {
                let environment = crate::sidecar::Environment::read();
                let asked = crate::sidecar::parse(&mut args, environment);
                let help = Self::Help(crate::sidecar::HELP);
                asked
                    .map(|asked| asked.map_or(help, Self::Sidecar))
                    .map_err(|error| error.to_string())
            }
            #[cfg(not(feature = "sidecar"))]
            Some("sidecar") => Err("this gusset was built without the feature sidecar".into()),
            Some("health") => {
                let asked = crate::health::parse(&mut args, std::env::var("GUSSET_HEALTH").ok());
                let help = Self::Help(crate::health::HELP);
                asked.map(|asked| asked.map_or(help, Self::Health)).map_err(|e| e.to_string())
            }
            Some("registry") => registry(&mut args, token).map_err(|error| error.to_string()),
            _ => Err(format!("unknown command {command:?}")),
        }
    }
}

fn registry(args: &mut lexopt::Parser, token: Option<String>) -> Result<Command, lexopt::Error> {
    let listen = SocketAddr::from(([127, 0, 0, 1], 8_500));
    let checks_of = ActiveChecks::OfInstance;
    let mut options = Registry { listen, checks: checks_of, data_dir: None, token, tls: None };
    let (mut certificates, mut key) = (None, None);
    while let Some(arg) = args.next()? {
        match arg {
            Long("listen") => {
                let address = args.value()?.string()?;
                options.listen = address.parse().map_err(|_| {
                    format!("--listen: '{address}' is no address with a port, as 127.0.0.1:8500 is")
                })?;
            }
            Long("checks") => options.checks = checks(&args.value()?.string()?)?,
            Long("data-dir") => options.data_dir = Some(args.value()?.into()),
            Long("tls-cert") => certificates = Some(PathBuf::from(args.value()?)),
            Long("tls-key") => key = Some(PathBuf::from(args.value()?)),
            Long("token") => options.token = Some(args.value()?.string()?),
            Long("help") | Short('h') => return Ok(Command::Help(REGISTRY_HELP)),
            _ => return Err(arg.unexpected()),
        }
    }
    options.tls = match (certificates, key) {
        (Some(certificates), Some(key)) => Some((certificates, key)),
        (None, None) => None,
        (Some(_), None) => return Err("--tls-cert needs --tls-key as well".into()),
        (None, Some(_)) => return Err("--tls-key needs --tls-cert as well".into()),
    };
    if options.token.as_ref().is_some_and(String::is_empty) {
        return Err("the token is empty".into());
    }
    if options.token.is_none() && !options.listen.ip().is_loopback() {
        return Err(format!(
            "not listening on {} without a token: whoever reaches it could change everything; give one by --token or $GUSSET_TOKEN",
            options.listen
        )
        .into());
    }
    Ok(Command::Registry(options))
}

fn checks(which: &str) -> Result<ActiveChecks, String> {
    match which {
        "none" => Ok(ActiveChecks::Refused),
        "instance" => Ok(ActiveChecks::OfInstance),
        "any" => Ok(ActiveChecks::Anywhere),
        _ => Err(format!("--checks: '{which}' is none of none, instance, any")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Command, String> {
        Command::parse(args.iter().map(OsString::from), None)
    }

    #[test]
    fn without_options_it_listens_where_consul_does() {
        let listen = "127.0.0.1:8500".parse().unwrap();
        let checks = ActiveChecks::OfInstance;
        let expected = Registry { listen, checks, data_dir: None, token: None, tls: None };
        assert_eq!(parse(&["registry"]), Ok(Command::Registry(expected)));
        assert_eq!(parse(&["--help"]), Ok(Command::Help(HELP)));
        assert_eq!(parse(&["--version"]), Ok(Command::Help(VERSION)));
        assert_eq!(parse(&["registry", "-h"]), Ok(Command::Help(REGISTRY_HELP)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (args, said) in [
            (&[][..], "no command"),
            (&["serve"], "unknown command \"serve\""),
            (&["--listen"], "invalid option '--listen'"),
            (&["registry", "--port", "1"], "invalid option '--port'"),
            (&["registry", "--listen"], "missing argument for option '--listen'"),
            (
                &["registry", "--listen", "8500"],
                "--listen: '8500' is no address with a port, as 127.0.0.1:8500 is",
            ),
            (&["registry", "--token", ""], "the token is empty"),
            (&["registry", "--checks", "all"], "--checks: 'all' is none of none, instance, any"),
            (&["registry", "--tls-key", "k.pem"], "--tls-key needs --tls-cert as well"),
            (&["registry", "more"], "unexpected argument \"more\""),
        ] {
            assert_eq!(parse(args).unwrap_err(), said, "{args:?}");
        }
    }

    #[test]
    fn beyond_loopback_it_listens_only_with_a_token() {
        let args = ["registry", "--listen", "0.0.0.0:8500"];
        assert!(parse(&args).unwrap_err().starts_with("not listening on 0.0.0.0:8500 without"));
        assert!(parse(&[&args[..], &["--token", "s3cret"]].concat()).is_ok());
        assert!(Command::parse(args.map(OsString::from), Some("s3cret".into())).is_ok());
        assert!(parse(&["registry", "--listen", "[::1]:0"]).is_ok());
    }
}
