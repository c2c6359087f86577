#![expect(clippy::print_stdout, reason = "this is the one place that prints")]

use std::{
    fmt::Display,
    io::{BufRead, IsTerminal},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// The screen, and the key that skips ahead.
#[derive(Debug)]
pub(crate) struct Terminal {
    colours: bool,
    began: Instant,
    /// Counts the times that Enter was pressed; nobody listens to a terminal without one.
    enter: Option<watch::Receiver<u32>>,
}

impl Terminal {
    /// Colours only where a person looks on and wants them.
    pub(crate) fn new(headless: bool) -> Self {
        let colours =
            !headless && std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let enter = (!headless && std::io::stdin().is_terminal()).then(watch_enter);
        Self { colours, began: Instant::now(), enter }
    }

    pub(crate) fn has_keys(&self) -> bool {
        self.enter.is_some()
    }

    pub(crate) fn title(&self, text: impl Display) {
        println!("{}", self.paint("1", text));
    }

    /// The heading of an act.
    pub(crate) fn act(&self, number: u32, text: impl Display) {
        let heading = format!("── {number} ── {text} ");
        let line = "─".repeat(78_usize.saturating_sub(heading.chars().count()));
        println!("\n{}", self.paint("1;36", format!("{heading}{line}")));
    }

    /// What one can type to see it oneself.
    pub(crate) fn try_it(&self, command: impl Display) {
        println!("  {} {}", self.paint("2", "try:"), self.paint("33", command));
    }

    pub(crate) fn say(&self, text: impl Display) {
        let elapsed = self.began.elapsed().as_secs_f64();
        println!("  {} {text}", self.paint("2", format!("{elapsed:5.1} s")));
    }

    /// One line of a table, without the time.
    pub(crate) fn row(&self, text: impl Display) {
        println!("          {text}");
    }

    /// A promise, and whether it held.
    pub(crate) fn verdict(&self, held: bool, text: impl Display) {
        let mark = if held { self.paint("1;32", "✓") } else { self.paint("1;31", "✗ BROKEN:") };
        println!("  {mark} {text}");
    }

    /// Waits for `span`, or until Enter is pressed.
    pub(crate) async fn pause(&mut self, span: Duration) {
        match &mut self.enter {
            Some(enter) => {
                // The end of the input is no key.
                let pressed = async {
                    if enter.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                let _ = timeout(span, pressed).await;
            }
            None => tokio::time::sleep(span).await,
        }
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

pub(crate) fn print(text: impl Display) {
    print!("{text}");
}

pub(crate) fn complain(text: impl Display) {
    eprintln!("ecommerce_demo: {text}");
}

/// Reading a terminal cannot be cancelled, so it has a thread of its own that ends with the process.
fn watch_enter() -> watch::Receiver<u32> {
    let (pressed, receiver) = watch::channel(0_u32);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() || pressed.is_closed() {
                return;
            }
            pressed.send_modify(|times| *times = times.wrapping_add(1));
        }
    });
    receiver
}
