//! Tells in a minute what gusset does, with a shop of seven services that talk over real sockets.

mod acts;
mod changes;
mod chaos;
mod console;
mod engines;
mod load;
mod options;
mod releases;
mod shopper;
mod story;
mod summary;
mod terminal;

use std::{io::ErrorKind, process::ExitCode, time::Duration};

use gusset::shutdown::Shutdown;
use gusset_engines::Port;
use options::{Command, HELP, Options};
use shop::settings::price_key;
use story::{Failed, NoStart, Story};
use terminal::Terminal;
use tokio::net::TcpListener;

/// The exit code of a demo that could not start, apart from one whose promises were broken.
const NO_START: u8 = 2;

fn main() -> ExitCode {
    // A part of the shop, see `Hosting`; nobody types that.
    match std::env::args_os().nth(1) {
        Some(argument) if argument == "serve" => return serve(),
        #[cfg(feature = "sidecars")]
        Some(argument) if argument == "sidecar" => {
            return gusset_cli::run(std::env::args_os().skip(1));
        }
        _ => {}
    }
    let port = std::env::var("PORT").ok();
    let options = match Command::parse(std::env::args_os().skip(1), port.as_deref()) {
        Ok(Command::Run(options)) => options,
        Ok(Command::Help) => {
            terminal::print(HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            terminal::complain(format!("{error}\n\n{HELP}"));
            return ExitCode::from(NO_START);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal::complain(format!("no runtime: {error}"));
            return ExitCode::from(NO_START);
        }
    };
    let code = runtime.block_on(run(&options));
    // Reading the terminal cannot be interrupted; do not wait for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

fn serve() -> ExitCode {
    let served = tokio::runtime::Runtime::new().and_then(|runtime| {
        let served = runtime.block_on(shop::host::run());
        runtime.shutdown_timeout(Duration::from_secs(1));
        served
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(error);
            ExitCode::from(NO_START)
        }
    }
}

async fn run(options: &Options) -> ExitCode {
    // A port that the system gives to nobody else until the gateway's process has it.
    let held = (options.processes && options.port == 0).then(Port::free);
    let port = held.as_ref().map_or(options.port, Port::number);
    let listener = match listen(port).await {
        Ok(listener) => listener,
        Err(error) => {
            terminal::complain(error);
            return ExitCode::from(NO_START);
        }
    };
    match story(options, listener).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<NoStart>() => {
            terminal::complain(error);
            ExitCode::from(NO_START)
        }
        Err(error) => {
            terminal::complain(format!("the story broke off: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn listen(port: u16) -> Result<TcpListener, String> {
    TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            format!(
                "port {port} is in use; choose another with --port P, or any free one with --port 0"
            )
        }
        _ => {
            format!("cannot listen on 127.0.0.1:{port}: {error}; choose another port with --port P")
        }
    })
}

/// Whether all promises held.
async fn story(options: &Options, listener: TcpListener) -> Result<bool, Failed> {
    let shutdown = Shutdown::new(Duration::ZERO);
    let signals = shutdown.clone();
    let signalled = tokio::spawn(async move { signals.signalled().await });

    let terminal = Terminal::new(options.headless);
    let mut story = Story::open(options, listener, terminal).await?;
    story.terminal.title(format!("gusset: a shop of seven services behind {}", story.gateway));
    story.terminal.say(format!("all of it to look at: {}", story.console.url));
    story.terminal.say(format!("to act there, its operator's token is {}", story.console.token));
    if story.terminal.has_keys() {
        story.terminal.say("Enter goes on sooner, Ctrl-C ends it");
    }
    let interrupted = tokio::select! {
        told = story.tell(options) => { told?; false }
        () = shutdown.begun() => true,
    };

    story
        .terminal
        .act(12, if interrupted { "interrupted: what holds so far" } else { "what was promised" });
    let summary = story.judge(interrupted).await?;
    summary.print(&story.terminal);
    if let Some(path) = &options.summary {
        let text = serde_json::to_string_pretty(&summary)?;
        std::fs::write(path, text + "\n")
            .map_err(|error| format!("--summary {}: {error}", path.display()))?;
    }
    if options.stay && !interrupted {
        story.terminal.act(13, "the shop stays open until Ctrl-C");
        stay(&story);
        story.desk_commands();
        loop {
            tokio::select! {
                () = story.look_on(Duration::from_secs(3_600)) => {}
                () = shutdown.begun() => break,
            }
        }
        story.shop.chaos.calm();
        story.obey().await;
    }
    shutdown.begin();
    let _ = signalled.await;
    story.terminal.say("closing: the front door, the services, the broker");
    story.shop.close().await?;
    let verdict = if summary.held { "every promise held" } else { "a promise was broken" };
    story.terminal.title(format!("\n{verdict}"));
    Ok(summary.held)
}

fn stay(story: &Story) {
    let base = &story.gateway;
    for command in [
        format!(
            "curl -s {base}/api/users -H 'content-type: application/json' -d '{{\"email\":\"me@example.com\",\"name\":\"Me\",\"password\":\"correct horse\"}}'"
        ),
        format!(
            "TOKEN=$(curl -s {base}/api/login -H 'content-type: application/json' -d '{{\"email\":\"me@example.com\",\"password\":\"correct horse\"}}' | sed 's/.*\"token\":\"\\([^\"]*\\)\".*/\\1/')"
        ),
        format!("curl -s {base}/api/products"),
        format!(
            "curl -s -X PUT {base}/api/cart/items/{} -H \"authorization: Bearer $TOKEN\" -H 'content-type: application/json' -d '{{\"quantity\":2}}'",
            story.products[0]
        ),
        format!(
            "curl -s {base}/api/orders -H \"authorization: Bearer $TOKEN\" -H 'content-type: application/json' -d '{{\"items\":[{{\"product_id\":\"{}\",\"quantity\":2}}],\"card\":\"4242424242424242\"}}'",
            story.products[0]
        ),
        format!("curl -s {base}/api/orders -H \"authorization: Bearer $TOKEN\""),
        format!("curl -s -X PUT -d 1 {}", story.shop.setting_url(&price_key("desk-lamp"))),
    ] {
        story.terminal.try_it(command);
    }
}
