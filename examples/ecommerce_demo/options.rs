use std::{ffi::OsString, path::PathBuf, str::FromStr, time::Duration};

use lexopt::prelude::*;
use shop::{Carrier, Flow, Place, load::Rate};

pub(crate) const HELP: &str = "\
Tells in a minute what gusset does, with a shop of seven services that talk over real sockets.

cargo run --release --example ecommerce_demo -- [OPTIONS]

  --seconds N      length of the story in seconds, 10 to 3600 [60]
  --load N         requests of the customers per second, 1 to 10000, sent when they
                   are due, whatever became of those before [20]; --rps is the same
  --port P         port of the gateway on 127.0.0.1, 0 for any free one [$PORT or 8080]
  --seed N         seed of what the customers do [1]
  --chaos SEED     instead of the story, break things while customers come; the
                   same seed breaks the same at the same times
  --desk P         port of the desk on 127.0.0.1, where things are broken and the
                   load is changed by HTTP [any free one]
  --registry R     where the services find each other: memory, http (served by
                   this process), http://HOST:PORT or etcd://HOST:PORT [memory]
  --broker B       what carries their messages: memory, file or nats://HOST:PORT
                   [memory; file with --data-dir]
  --processes      the gateway, the registry and each instance of a service in a
                   process of its own; needs --features nats before the name of the
                   example, and nats-server
  --sidecars       the same, and each instance behind a gusset sidecar of its own,
                   which is this program as well; needs --features nats,sidecars
  --backend LIST   nats, etcd, postgres, redis or all: start these here, and use
                   them; each needs a feature of its name
  --flow F         who knows what is to be done about an order: orchestration (a saga)
                   or choreography (each service, by the others' events)
                   [orchestration]
  --redis URL      count the quotas of customers in this Redis, redis://HOST:PORT
  --database URL   keep accounts, stock, payments, orders and sagas in this PostgreSQL
  --data-dir DIR   keep everything that an order depends on there; started again
                   there, even after kill -9, the shop finishes or undoes what was
                   under way [nothing is kept]
  --summary FILE   write the figures and the verdict there as JSON
  --headless       no colours, no waiting for a key
  --stay           keep the shop open after the story until Ctrl-C
  --help           this text

The exit code is 0 if every promise held, 1 if one was broken, 2 if it could not start.
";

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) length: Duration,
    pub(crate) load: u32,
    pub(crate) port: u16,
    pub(crate) seed: u64,
    pub(crate) chaos: Option<u64>,
    pub(crate) desk: u16,
    pub(crate) registry: Place,
    pub(crate) broker: Carrier,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) database: Option<String>,
    pub(crate) redis: Option<String>,
    pub(crate) processes: bool,
    pub(crate) sidecars: bool,
    pub(crate) flow: Flow,
    pub(crate) backends: Vec<Backend>,
    pub(crate) summary: Option<PathBuf>,
    pub(crate) headless: bool,
    pub(crate) stay: bool,
}

/// A server that is started with the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Nats,
    Etcd,
    Postgres,
    Redis,
}

/// Several of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Backends(pub(crate) Vec<Backend>);

impl FromStr for Backends {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for name in list.split(',') {
            all.extend(match name {
                "nats" => vec![Backend::Nats],
                "etcd" => vec![Backend::Etcd],
                "postgres" => vec![Backend::Postgres],
                "redis" => vec![Backend::Redis],
                "all" => vec![Backend::Nats, Backend::Etcd, Backend::Postgres, Backend::Redis],
                _ => return Err(format!("nats, etcd, postgres, redis or all, not '{name}'")),
            });
        }
        Ok(Self(all))
    }
}

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Run(Box<Options>),
    Help,
}

impl Command {
    /// Reads the arguments behind the name of the program; `port` is the environment's `PORT`.
    pub(crate) fn parse(
        args: impl IntoIterator<Item = OsString>,
        port: Option<&str>,
    ) -> Result<Self, String> {
        let port = match port {
            Some(port) => port.parse().map_err(|_| format!("PORT is no port: '{port}'"))?,
            None => 8080,
        };
        Self::read(&mut lexopt::Parser::from_args(args), port).map_err(|error| error.to_string())
    }

    fn read(args: &mut lexopt::Parser, port: u16) -> Result<Self, lexopt::Error> {
        let mut options = Options {
            length: Duration::from_secs(60),
            load: 20,
            port,
            seed: 1,
            chaos: None,
            desk: 0,
            registry: Place::default(),
            broker: Carrier::default(),
            data_dir: None,
            database: None,
            redis: None,
            processes: false,
            sidecars: false,
            flow: Flow::default(),
            backends: Vec::new(),
            summary: None,
            headless: false,
            stay: false,
        };
        let mut broker = None;
        while let Some(arg) = args.next()? {
            match arg {
                Long("seconds") => {
                    let seconds = number(args, "--seconds", 10, 3_600)?;
                    options.length = Duration::from_secs(seconds);
                }
                Long("load" | "rps") => {
                    options.load = number(args, "--load", 1, Rate::MOST.into())? as u32;
                }
                Long("port") => {
                    options.port = number(args, "--port", 0, u64::from(u16::MAX))? as u16
                }
                Long("seed") => options.seed = number(args, "--seed", 0, u64::MAX)?,
                Long("chaos") => options.chaos = Some(number(args, "--chaos", 0, u64::MAX)?),
                Long("desk") => {
                    options.desk = number(args, "--desk", 0, u64::from(u16::MAX))? as u16;
                }
                Long("registry") => options.registry = one_of(args, "--registry")?,
                Long("broker") => broker = Some(one_of(args, "--broker")?),
                Long("data-dir") => options.data_dir = Some(args.value()?.into()),
                Long("database") => options.database = Some(args.value()?.string()?),
                Long("redis") => options.redis = Some(args.value()?.string()?),
                Long("flow") => options.flow = one_of(args, "--flow")?,
                Long("processes") => options.processes = true,
                Long("sidecars") => (options.processes, options.sidecars) = (true, true),
                Long("backend") => {
                    let list: Backends = one_of(args, "--backend")?;
                    options.backends.extend(list.0);
                }
                Long("summary") => options.summary = Some(args.value()?.into()),
                Long("headless") => options.headless = true,
                Long("stay") => options.stay = true,
                Long("help") | Short('h') => return Ok(Self::Help),
                _ => return Err(arg.unexpected()),
            }
        }
        options.broker = match (broker, &options.data_dir) {
            (None, None) => Carrier::Memory,
            (None, Some(_)) => Carrier::File,
            (Some(Carrier::Memory), Some(_)) => {
                let why = "--broker memory would lose the messages about orders that --data-dir keeps; it goes with file or nats://HOST:PORT";
                return Err(why.into());
            }
            (Some(chosen), _) => chosen,
        };
        Ok(Self::Run(Box::new(options)))
    }
}

fn one_of<T: FromStr<Err = String>>(
    args: &mut lexopt::Parser,
    name: &str,
) -> Result<T, lexopt::Error> {
    let value = args.value()?.string()?;
    value.parse().map_err(|wanted| format!("{name} takes {wanted}").into())
}

fn number(args: &mut lexopt::Parser, name: &str, min: u64, max: u64) -> Result<u64, lexopt::Error> {
    let value = args.value()?.string()?;
    match value.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(format!("{name} takes a whole number from {min} to {max}, not '{value}'").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        Command::parse(line.split_whitespace().map(Into::into), None)
    }

    #[test]
    fn all_options_are_read() {
        let line = "--seconds 20 --load=7 --port 0 --seed 9 --chaos 4 --desk 81 --registry etcd://e:1 \
                    --broker nats://n:4222 --data-dir d --database postgres://p/shop --redis redis://r --sidecars --flow choreography --backend etcd,postgres \
                    --summary s.json --headless --stay";
        let options = Options {
            length: Duration::from_secs(20),
            load: 7,
            port: 0,
            seed: 9,
            chaos: Some(4),
            desk: 81,
            registry: Place::Etcd(vec!["e:1".into()]),
            broker: Carrier::Nats("nats://n:4222".into()),
            data_dir: Some("d".into()),
            database: Some("postgres://p/shop".into()),
            redis: Some("redis://r".into()),
            processes: true,
            sidecars: true,
            flow: Flow::Choreography,
            backends: vec![Backend::Etcd, Backend::Postgres],
            summary: Some("s.json".into()),
            headless: true,
            stay: true,
        };
        assert_eq!(parse(line), Ok(Command::Run(Box::new(options))));
        assert_eq!(parse("--help"), Ok(Command::Help));
    }

    #[test]
    fn the_environment_gives_the_port_and_the_option_wins() {
        let port = |args: &[&str], port| match Command::parse(args.iter().map(Into::into), port) {
            Ok(Command::Run(options)) => Ok(options.port),
            Ok(Command::Help) => Err("help".into()),
            Err(error) => Err(error),
        };
        assert_eq!(port(&[], Some("9000")), Ok(9000));
        assert_eq!(port(&["--port", "7"], Some("9000")), Ok(7));
        assert_eq!(port(&[], Some("http")), Err("PORT is no port: 'http'".into()));
    }

    #[test]
    fn a_folder_has_its_messages_in_files() {
        let broker = |line| match parse(line) {
            Ok(Command::Run(options)) => options.broker,
            _ => Carrier::Nats(String::new()),
        };
        assert_eq!(broker(""), Carrier::Memory);
        assert_eq!(broker("--data-dir d"), Carrier::File);
        assert_eq!(broker("--broker nats://a:1 --data-dir d"), Carrier::Nats("nats://a:1".into()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, message) in [
            ("--port 70000", "--port takes a whole number from 0 to 65535, not '70000'"),
            ("--seconds soon", "--seconds takes a whole number from 10 to 3600, not 'soon'"),
            ("--rps 0", "--load takes a whole number from 1 to 10000, not '0'"),
            (
                "--chaos now",
                "--chaos takes a whole number from 0 to 18446744073709551615, not 'now'",
            ),
            (
                "--registry zk",
                "--registry takes memory, http, http://HOST:PORT or etcd://HOST:PORT, not 'zk'",
            ),
            ("--flow ballet", "--flow takes orchestration or choreography, not 'ballet'"),
            ("--broker amqp", "--broker takes memory, file or nats://HOST:PORT, not 'amqp'"),
            (
                "--broker memory --data-dir d",
                "--broker memory would lose the messages about orders that --data-dir keeps; it goes with file or nats://HOST:PORT",
            ),
            (
                "--backend all,oracle",
                "--backend takes nats, etcd, postgres, redis or all, not 'oracle'",
            ),
            ("--colour", "invalid option '--colour'"),
            ("now", "unexpected argument \"now\""),
            ("--port", "missing argument for option '--port'"),
        ] {
            assert_eq!(parse(line), Err(message.into()));
        }
    }
}
