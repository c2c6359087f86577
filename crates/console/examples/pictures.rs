//! Takes a picture of each page of a console that runs, in light and wide and in dark and narrow, by Chromium:
//! `cargo run -p gusset-console --example pictures -- http://127.0.0.1:8081/ docs/pictures`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a tool")]

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/browser/chromium.rs"]
mod chromium;

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use chromium::Tab;

/// Larger ones have no place in a repository.
const MOST: usize = 150 << 10;

const PAGES: [&str; 8] =
    ["map", "breakers", "limits", "traces", "sagas", "broker", "canary", "switches"];

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(folder)) = (args.next(), args.next()) else {
        panic!("pictures URL FOLDER");
    };
    fs::create_dir_all(&folder).unwrap();
    for (width, dark) in [(1280, false), (390, true)] {
        let mut tab = Tab::open(width, dark);
        for page in PAGES {
            tab.go(&format!("{url}#{page}"));
            tab.until(&format!("document.querySelector('[aria-current]').id === 'to-{page}' && document.querySelector('main').textContent"));
            // Rates are known by then.
            tab.eval("new Promise((done) => setTimeout(done, 2500))");
            if width > 600 {
                tab.eval("[...document.querySelectorAll('.row.trace, .row.saga, .row.letter')].find((row) => row.checkVisibility())?.click()");
                tab.eval("new Promise((done) => setTimeout(done, 700))");
            }
            let picture = BASE64_STANDARD.decode(tab.picture()).unwrap();
            let file = Path::new(&folder).join(format!("{page}-{width}.webp"));
            println!("{} {} KiB", file.display(), picture.len() >> 10);
            assert!(picture.len() < MOST, "{} is too large", file.display());
            fs::write(file, picture).unwrap();
        }
        assert_eq!(tab.errors, [""; 0]);
    }
}
