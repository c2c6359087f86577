//! A real browser without a window, spoken to by the protocol of its developer tools, over two pipes.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::Command,
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use gusset_engines::{Process, run};
use serde_json::{Value, json};

/// Far beyond what anything takes, on a machine that is busy with much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// One tab.
pub(crate) struct Tab {
    _process: Process,
    to: File,
    from: Receiver<Value>,
    session: String,
    last: u64,
    /// What the page complained of.
    pub(crate) errors: Vec<String>,
}

impl Tab {
    pub(crate) fn open(width: u32, dark: bool) -> Self {
        let mut process = Process::new("chromium", |folder: &Path| {
            run(Command::new("mkfifo").args([folder.join("in"), folder.join("out")]));
            let mut command = Command::new("sh");
            // Its sockets too are gone with the folder.
            command.current_dir(folder).env("TMPDIR", folder).arg("-c").arg(format!(
                "exec ${{GUSSET_CHROMIUM:-chromium}} --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage \
                 --disable-background-networking --disable-component-update --disable-sync --no-first-run \
                 --user-data-dir=profile --window-size={width},900 --remote-debugging-pipe about:blank 3<in 4>out"
            ));
            command
        });
        process.spawn();
        // In the order in which the shell opens them, for each waits for its other end.
        let to = File::options().write(true).open(process.folder().join("in")).unwrap();
        let from = File::open(process.folder().join("out")).unwrap();
        let (told, hear) = channel();
        thread::spawn(move || {
            for message in BufReader::new(from).split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { continue };
                if told.send(message).is_err() {
                    return;
                }
            }
        });
        let mut tab = Self {
            _process: process,
            to,
            from: hear,
            session: String::new(),
            last: 0,
            errors: Vec::new(),
        };
        let target = tab.send("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let session = tab.send("Target.attachToTarget", target);
        tab.session = session["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable", "Network.enable"] {
            tab.send(domain, json!({}));
        }
        tab.resize(width);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        tab.send("Emulation.setEmulatedMedia", json!({ "features": features }));
        tab
    }

    pub(crate) fn resize(&mut self, width: u32) {
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.send("Emulation.setDeviceMetricsOverride", size);
    }

    pub(crate) fn send(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let id = self.last;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.to.write_all(message.to_string().as_bytes()).unwrap();
        self.to.write_all(&[0]).unwrap();
        loop {
            let mut message = self.from.recv_timeout(PATIENCE).unwrap_or_else(|error| {
                panic!("chromium does not answer {method}: {error}");
            });
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].take();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let of = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.errors.push(of["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") if of["type"] == "error" || of["type"] == "assert" => {
                self.errors.push(of["args"].to_string());
            }
            Some("Log.entryAdded") if of["entry"]["level"] == "error" => {
                self.errors.push(of["entry"].to_string());
            }
            _ => {}
        }
    }

    pub(crate) fn go(&mut self, url: &str) {
        let answer = self.send("Page.navigate", json!({ "url": url }));
        assert!(answer["errorText"].is_null(), "{answer}");
    }

    /// The value of an expression in the page.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let ask = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let mut answer = self.send("Runtime.evaluate", ask);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until it is so.
    pub(crate) fn until(&mut self, expression: &str) {
        let wait = format!(
            "new Promise((done) => {{ const end = Date.now() + 60000; const look = () => {{ let so; try {{ so = {expression} }} catch {{}} \
             if (so || Date.now() > end) done(!!so); else setTimeout(look, 20) }}; look() }})"
        );
        if self.eval(&wait) != true {
            let text = self.eval("document.body.innerText");
            panic!("it does not become so: {expression}\n{text}\n{:?}", self.errors);
        }
    }

    pub(crate) fn key(&mut self, key: &str) {
        let text = if key.chars().count() == 1 { key } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key });
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = text.into();
            }
            if let Some(code) = match key {
                "Enter" => Some(13),
                "Tab" => Some(9),
                "Escape" => Some(27),
                "ArrowDown" => Some(40),
                "End" => Some(35),
                _ => None,
            } {
                event["windowsVirtualKeyCode"] = code.into();
                if key == "Enter" && kind == "keyDown" {
                    event["text"] = "\r".into();
                }
            }
            self.send("Input.dispatchKeyEvent", event);
        }
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.send("Input.insertText", json!({ "text": text }));
    }

    /// A WebP, in base64: a third of a PNG's size.
    #[allow(dead_code, reason = "for pictures")]
    pub(crate) fn picture(&mut self) -> String {
        let answer =
            self.send("Page.captureScreenshot", json!({ "format": "webp", "quality": 85 }));
        answer["data"].as_str().unwrap().to_owned()
    }
}
