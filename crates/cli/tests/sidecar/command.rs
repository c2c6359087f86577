//! Programs that the sidecar starts.

use std::process::Command;

use gusset_engines::{Folder, Port};

use crate::harness::*;

/// Listens at its first argument and does as its signals say.
const PROGRAM: &str = r#"
import http.server, os, signal, sys, threading
def said(number, frame):
    print('signal', number, flush=True)
    if number == signal.SIGTERM: os._exit(7)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1): signal.signal(number, said)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/exit': os._exit(5)
        if self.path == '/abort': os.kill(os.getpid(), signal.SIGKILL)
        body = os.environ.get(self.path[1:], 'none').encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Answer).serve_forever()
"#;

fn supervised(registry: &Registry, port: &Port, more: &[&str]) -> Sidecar {
    let text = port.number().to_string();
    let app = ([127, 0, 0, 1], port.number()).into();
    let command = ["--", "python3", "-c", PROGRAM, &text];
    let side = Sidecar::start("cart", app, registry, &[more, &command].concat());
    side.wait_until_ready();
    side
}

#[test]
fn a_command_is_started_told_where_out_is_and_asked_to_end() {
    let registry = Registry::start();
    let port = Port::free();
    let mut side = supervised(&registry, &port, &[]);
    let (_, outbound) = get(side.inbound, "cart", "/GUSSET_OUTBOUND");
    assert_eq!(outbound, format!("http://{}", side.outbound));
    assert_eq!(get(side.inbound, "cart", "/http_proxy").1, "none");
    registry.wait_for("cart", 1);
    side.signal("-TERM");
    assert_eq!(side.ended(), 7, "the code is the command's");
    registry.wait_for("cart", 0);
}

#[test]
fn a_command_that_ends_ends_the_sidecar_with_its_code_and_is_deregistered() {
    let registry = Registry::start();
    for (path, code) in [("/exit", 5), ("/abort", 137)] {
        let port = Port::free();
        let mut side = supervised(&registry, &port, &["--proxy-env"]);
        registry.wait_for("cart", 1);
        let (_, proxy) = get(side.inbound, "cart", "/http_proxy");
        assert_eq!(proxy, format!("http://{}", side.outbound));
        let _ = get(side.inbound, "cart", path);
        assert_eq!(side.ended(), code);
        registry.wait_for("cart", 0);
    }
}

#[test]
fn a_command_that_does_not_end_is_killed_with_all_that_it_started() {
    let registry = Registry::start();
    let app = App::start(|_| String::new());
    let marker = format!("4711{}", app.address.port());
    let script = format!("trap '' TERM; sleep {marker} & while :; do sleep 1; done");
    let more = ["--drain-limit", "1s", "--", "sh", "-c", &script];
    let mut side = Sidecar::start("cart", app.address, &registry, &more);
    side.wait_until_ready();
    let running = || {
        Command::new("pgrep")
            .args(["-f", &format!("^sleep {marker}$")])
            .output()
            .unwrap()
            .status
            .success()
    };
    eventually("the child of the command", || running().then_some(()));
    side.signal("-TERM");
    assert_eq!(side.ended(), 137);
    eventually("nothing is left", || (!running()).then_some(()));
}

#[test]
fn other_signals_are_handed_on() {
    let registry = Registry::start();
    let folder = Folder::new("signals");
    let file = folder.join("said");
    let app = App::start(|_| String::new());
    let script = format!(
        "trap 'echo hup >> {0}' HUP; trap 'echo usr1 >> {0}' USR1; echo ready >> {0}; while :; do sleep 0.05; done",
        file.display()
    );
    let command = ["--", "sh", "-c", &script];
    let side = Sidecar::start("cart", app.address, &registry, &command);
    let said = |word: &str| {
        eventually(word, || {
            std::fs::read_to_string(&file).is_ok_and(|text| text.contains(word)).then_some(())
        });
    };
    said("ready");
    side.signal("-HUP");
    said("hup");
    side.signal("-USR1");
    said("usr1");
    assert_eq!(side.admin("/livez").0, 200);
}
