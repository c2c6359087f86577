//! The page in a real browser.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod chromium;
#[path = "../world/mod.rs"]
mod world;

use std::{net::Ipv4Addr, time::Duration};

use chromium::Tab;
use gusset_breaker::State;
use gusset_console::{Sources, router};
use tokio::{net::TcpListener, runtime::Runtime};
use world::{MARKUP, TOKEN, World};

/// Serves these sources for as long as the runtime lives.
fn serve(runtime: &Runtime, sources: Sources) -> String {
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let _guard = runtime.enter();
    let app = router(sources);
    runtime.spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}/")
}

fn world(runtime: &Runtime, traces: usize, instances: u16) -> World {
    runtime.block_on(async {
        let world = World::new(traces, instances).await;
        world.settled().await;
        world
    })
}

const PAGES: [(&str, &str); 7] = [
    ("map", "orders"),
    ("breakers", "bank"),
    ("limits", "api"),
    ("traces", "orders"),
    ("sagas", "place-order"),
    ("broker", "mails"),
    ("canary", "stable"),
];

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// Whether the page has this in its text, however it is broken into lines.
fn shows(text: &str) -> String {
    format!("document.querySelector('main').textContent.includes({})", quoted(text))
}

/// Presses the button with this text, as soon as it is there.
fn press(tab: &mut Tab, text: &str) {
    let find = format!(
        "[...document.querySelectorAll('button')].find((b) => b.textContent === {} && b.checkVisibility())",
        quoted(text)
    );
    tab.until(&find);
    tab.eval(&format!("{find}.click()"));
}

fn become_operator(tab: &mut Tab) {
    press(tab, "Read only: become operator");
    tab.until("document.activeElement.id === 'ask-input'");
    tab.text(TOKEN);
    tab.key("Enter");
    tab.until("document.getElementById('operator').textContent.startsWith('Operator')");
}

#[test]
fn every_page_shows_what_there_is_by_its_key_and_says_nothing_wrong() {
    let runtime = Runtime::new().unwrap();
    let world = world(&runtime, 30, 12);
    let url = serve(&runtime, world.sources());
    let has_edge = "document.querySelector('path.edge.warn, path.edge.bad')";
    for (width, dark) in [(1280, false), (390, true)] {
        let mut tab = Tab::open(width, dark);
        runtime.block_on(world.traffic());
        tab.go(&url);
        for (number, (page, text)) in (1..).zip(PAGES) {
            tab.until("document.querySelector('#nav a[aria-current]')");
            tab.key(&number.to_string());
            tab.until(&format!(
                "document.querySelector('[aria-current]').id === 'to-{page}' && {}",
                shows(text)
            ));
            if page == "map" {
                tab.until(has_edge);
            }
            let wide = tab.eval("document.documentElement.scrollWidth <= innerWidth");
            assert_eq!(wide, true, "{page} is not wider than {width}");
            if let Ok(folder) = std::env::var("GUSSET_PICTURES") {
                let name = format!("{folder}/{page}-{width}.png.b64");
                std::fs::write(name, tab.picture()).unwrap();
            }
        }
        assert_eq!(tab.errors, [""; 0]);
    }
}

#[test]
fn an_empty_page_says_what_would_appear() {
    let runtime = Runtime::new().unwrap();
    let url = serve(&runtime, Sources::new());
    let mut tab = Tab::open(1280, false);
    for (page, _) in PAGES {
        tab.go(&format!("{url}#{page}"));
        tab.until("document.querySelector('.empty:not([hidden])')?.textContent.includes('Sources::new()')");
    }
    assert_eq!(tab.errors, [""; 0]);
}

#[test]
fn what_services_say_is_text_and_never_markup() {
    let runtime = Runtime::new().unwrap();
    let world = world(&runtime, 30, 2);
    let url = serve(&runtime, world.sources());
    let mut tab = Tab::open(1280, false);
    for page in ["map", "breakers", "limits", "canary", "traces"] {
        tab.go(&format!("{url}#{page}"));
        let said = if page == "traces" { "createOrder" } else { MARKUP };
        tab.until(&shows(said));
    }
    let failed = "document.querySelector('.row.trace .bad-ink')";
    tab.until(failed);
    tab.eval(&format!("{failed}.closest('.row').click()"));
    tab.until(&format!(
        "document.querySelector('.loglines')?.textContent.includes({})",
        quoted("</script>")
    ));
    tab.go(&format!("{url}#sagas/s-1"));
    tab.until(&shows("</script>"));
    tab.go(&format!("{url}#broker/1"));
    tab.until("document.querySelector('pre')?.textContent.includes('<img')");
    tab.until(&shows("<b>bold</b>"));
    assert_eq!(tab.eval("document.images.length + document.querySelectorAll('main script, main b[onerror]').length"), 0);
    assert_ne!(tab.eval("document.title"), "owned");
    assert_eq!(tab.errors, [""; 0]);
    // And if the script were careless, the browser would not be.
    let careless = "(() => { try { document.body.innerHTML = '<b>'; return 'markup' } catch { return 'refused' } })()";
    assert_eq!(tab.eval(careless), "refused");
}

#[test]
fn a_change_appears_by_itself_and_operators_act() {
    let runtime = Runtime::new().unwrap();
    let world = world(&runtime, 3, 2);
    let url = serve(&runtime, world.sources());
    let mut tab = Tab::open(1280, false);
    tab.go(&format!("{url}#breakers"));
    let card = "document.querySelector('[data-name=bank]')";
    tab.until(&format!("{card}.textContent.includes('closed')"));
    assert_eq!(
        tab.eval(&format!("{card}.querySelector('.acts').checkVisibility()")),
        false,
        "who only reads has no buttons"
    );
    {
        let _guard = runtime.enter();
        for _ in 0..5 {
            world.circuit.try_acquire().unwrap().failure_with("the bank is closed");
        }
    }
    tab.until(&format!("{card}.textContent.includes('the bank is closed') && +{card}.querySelector('svg text').textContent > 0"));

    become_operator(&mut tab);
    tab.eval(&format!("[...{card}.querySelectorAll('button')].find((b) => b.textContent === 'Force closed').click()"));
    tab.until(&format!("{card}.textContent.includes('forced closed')"));
    assert_eq!(world.circuit.state(), State::ForcedClosed);

    tab.go(&format!("{url}#canary"));
    press(&mut tab, "Promote stable");
    press(&mut tab, "OK");
    tab.until(&shows("100 %"));
    assert_eq!(world.split.weights()[1].1, 0);

    tab.go(&format!("{url}#sagas/s-1"));
    press(&mut tab, "Close");
    tab.until("document.activeElement.id === 'ask-input'");
    tab.text("counted by hand");
    tab.key("Enter");
    tab.until("document.querySelector('.in .pill')?.textContent === 'closed'");
    tab.until(&shows("counted by hand"));

    tab.go(&format!("{url}#broker/1"));
    press(&mut tab, "Redrive");
    // It dies again, under another number.
    tab.until("document.querySelector('.row.letter')?.textContent.startsWith('2')");
    press(&mut tab, "Purge");
    press(&mut tab, "OK");
    tab.until("!document.querySelector('.row.letter:not([hidden])')?.checkVisibility()");
    assert_eq!(world.broker.stats().dead_letters, 0);
    assert_eq!(tab.errors, [""; 0]);
}

#[test]
fn ten_thousand_traces_and_a_thousand_instances_stay_fluid() {
    let runtime = Runtime::new().unwrap();
    let world = world(&runtime, 10_000, 1_000);
    let url = serve(&runtime, world.sources());
    let mut tab = Tab::open(1280, false);
    tab.go(&format!("{url}#traces"));
    tab.until(&shows("10,000 traces"));
    tab.until("document.querySelectorAll('.row.trace').length >= 10 && document.querySelector('.window').checkVisibility()");
    let rows = tab.eval("document.querySelectorAll('.row.trace').length").as_u64().unwrap();
    assert!((10..100).contains(&rows), "{rows} rows for 10,000 traces");
    tab.eval("document.querySelector('.window').focus()");
    tab.key("End");
    tab.until("document.querySelector('[aria-posinset=\"10000\"]')?.getAttribute('aria-selected') === 'true'");
    tab.until("document.querySelector('.fall')");
    let scroll = "(async () => { const list = document.querySelector('.window'), spans = []; \
        for (let n = 0; n < 60; n++) { list.scrollTop = (list.scrollHeight / 60) * n; const begin = performance.now(); \
        await new Promise(requestAnimationFrame); spans.push(performance.now() - begin) } \
        return spans.sort((a, b) => a - b)[30] })()";
    let frame = tab.eval(scroll).as_f64().unwrap();
    println!("a frame while scrolling 10,000 traces: {frame:.1} ms (median)");
    assert!(frame < 1_000.0, "{frame} ms");
    tab.go(&format!("{url}#map"));
    tab.until(&shows("1,000 instances"));
    tab.until("document.querySelectorAll('.row.instance').length >= 5");
    let rows = tab.eval("document.querySelectorAll('.row.instance').length").as_u64().unwrap();
    assert!((5..100).contains(&rows), "{rows} rows for 1,000 instances");
    assert_eq!(tab.errors, [""; 0]);
}

#[test]
fn a_server_that_comes_back_is_followed_again() {
    let runtime = Runtime::new().unwrap();
    let url = serve(&runtime, Sources::new());
    let mut tab = Tab::open(1280, false);
    tab.go(&url);
    tab.until("document.getElementById('link').textContent === 'live'");
    runtime.shutdown_timeout(Duration::from_secs(5));
    tab.until("document.getElementById('link').textContent !== 'live'");
    let again = Runtime::new().unwrap();
    let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let listener = again.block_on(TcpListener::bind(address)).unwrap();
    let app = router(Sources::new());
    again.spawn(async move { axum::serve(listener, app).await });
    tab.until("document.getElementById('link').textContent === 'live'");
}
