//! The shop in a real browser, from an account to an order that becomes paid while one looks on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[allow(dead_code, reason = "the console's tests use all of it")]
#[path = "../../crates/console/tests/browser/chromium.rs"]
mod chromium;

use std::time::Duration;

use chromium::Tab;
use shop::{Ground, Shop, Times, payment::Bank};
use tokio::{net::TcpListener, runtime::Runtime, time::timeout};

fn open(runtime: &Runtime) -> (Shop, String) {
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let open_for = Duration::from_secs(1);
        // Long enough for a machine that is busy with much else.
        let times = Times { ttl: Duration::from_secs(30), open_for, ..Times::default() };
        let shop = Shop::open(&Ground { times, ..Ground::default() }, listener).await.unwrap();
        (shop, url)
    })
}

fn close(runtime: &Runtime, shop: Shop) {
    let closed = runtime.block_on(async { timeout(Duration::from_secs(60), shop.close()).await });
    closed.unwrap().unwrap();
}

/// What the page itself complained of. The browser notes every answer from 400 on, which is not a fault of the page.
fn errors(tab: &Tab) -> Vec<&String> {
    tab.errors.iter().filter(|error| !error.contains(r#""source":"network""#)).collect()
}

fn says(what: &str) -> String {
    format!("document.body.innerText.includes({})", serde_json::json!(what))
}

fn focus(id: &str) -> String {
    format!("document.activeElement.id === '{id}'")
}

/// By keyboard alone.
fn become_customer(tab: &mut Tab, email: &str) {
    tab.until(&says("Open an account"));
    for _ in 0..20 {
        if tab.eval(&focus("email")) == true {
            break;
        }
        tab.key("Tab");
    }
    tab.text(email);
    tab.key("Tab");
    tab.until(&focus("password"));
    tab.text("long enough");
    tab.key("Tab");
    tab.key("Tab");
    tab.until(&focus("register"));
    tab.key("Enter");
    tab.until("document.getElementById('cart').checkVisibility()");
    tab.until(&focus("catalogue-title"));
    tab.until(&says(email));
}

fn add(tab: &mut Tab, product: &str) {
    let label = serde_json::json!(format!("Add {product} to cart"));
    let button =
        format!("[...document.querySelectorAll('button')].find((b) => b.ariaLabel === {label})");
    tab.until(&format!("{button} && !{button}.disabled"));
    tab.eval(&format!("{button}.focus()"));
    tab.key("Enter");
    tab.until("document.getElementById('order').checkVisibility()");
}

fn order(tab: &mut Tab) {
    tab.until("!document.getElementById('order').disabled");
    tab.eval("document.getElementById('order').focus()");
    tab.key("Enter");
}

#[test]
fn a_customer_sees_the_order_become_paid_by_keyboard_in_any_light_and_width() {
    let runtime = Runtime::new().unwrap();
    let (shop, url) = open(&runtime);
    runtime.block_on(shop.products.add("desk lamp", 3_990, 10)).unwrap();
    for (width, dark) in [(1280, false), (390, true)] {
        let mut tab = Tab::open(width, dark);
        tab.go(&url);
        tab.until(&says("desk lamp"));
        become_customer(&mut tab, &format!("{width}@example.com"));
        add(&mut tab, "desk lamp");
        tab.until(&says("1 × desk lamp"));

        shop.payments.set_bank(Bank::Silent);
        order(&mut tab);
        tab.until(&says("Set aside for you, waiting for the payment"));
        assert_eq!(tab.eval(&says("Paid")), false);
        assert_eq!(tab.eval("document.getElementById('order').disabled"), true, "it is under way");
        shop.payments.set_bank(Bank::Up);
        tab.until(&says("Confirmed: it is on its way"));
        tab.until(&says("Nothing yet: what you add from the catalogue"));

        // It is all there again for who comes back.
        tab.send("Page.reload", serde_json::json!({}));
        tab.until(&says("Confirmed: it is on its way"));
        let wide = tab.eval("document.documentElement.scrollWidth <= innerWidth");
        assert_eq!(wide, true, "it is not wider than {width}");
        if let Ok(folder) = std::env::var("GUSSET_PICTURES") {
            std::fs::write(format!("{folder}/shop-{width}.png.b64"), tab.picture()).unwrap();
        }
        assert_eq!(errors(&tab), [""; 0]);
    }
    assert_eq!(runtime.block_on(shop.payments.totals()).unwrap().balance_cents, 2 * 3_990);
    close(&runtime, shop);
}

#[test]
fn a_bank_that_is_down_costs_the_customer_nothing_and_the_cart_waits() {
    let runtime = Runtime::new().unwrap();
    let (shop, url) = open(&runtime);
    runtime.block_on(shop.products.add("tea pot", 2_450, 10)).unwrap();
    let mut tab = Tab::open(1280, false);
    tab.go(&url);
    become_customer(&mut tab, "ann@example.com");
    add(&mut tab, "tea pot");
    shop.payments.set_bank(Bank::Down);
    order(&mut tab);
    tab.until(&says("Payment is not possible at present: the bank cannot be reached"));
    tab.until(&says("Cancelled: you pay nothing"));
    tab.until(&says("1 × tea pot"));
    shop.payments.set_bank(Bank::Up);
    order(&mut tab);
    tab.until(&says("Confirmed: it is on its way"));
    assert_eq!(runtime.block_on(shop.payments.totals()).unwrap().captured, 1);
    assert_eq!(errors(&tab), [""; 0]);
    close(&runtime, shop);
}

#[test]
fn who_is_too_fast_is_told_when_to_go_on_and_may() {
    let runtime = Runtime::new().unwrap();
    let (shop, url) = open(&runtime);
    runtime.block_on(shop.products.add("alarm clock", 2_290, 10)).unwrap();
    let mut tab = Tab::open(1280, false);
    tab.go(&url);
    become_customer(&mut tab, "ann@example.com");
    add(&mut tab, "alarm clock");
    // 50 a minute is the quota of a cart.
    let hurry = "Promise.all([...Array(80)].map(() => fetch(`/api/cart/items/${document.querySelector('#lines li').dataset.id}`, { \
        method: 'PUT', body: '{\"quantity\":1}', headers: { 'content-type': 'application/json', authorization: `Bearer ${sessionStorage.getItem('token')}` } })))";
    let button = "[...document.querySelectorAll('button')].find((b) => b.ariaLabel === 'Add alarm clock to cart')";
    tab.until(&format!(
        "window.fast ??= {hurry}.then(() => {{ {button}.click(); window.fast = null }}), document.getElementById('alert').textContent.startsWith('That was too fast. You can go on in ')"
    ));
    assert_eq!(tab.eval("document.getElementById('alert').role ?? document.getElementById('alert').getAttribute('role')"), "alert");
    tab.until(&format!("window.fast === null && !{button}.disabled"));
    tab.until("!document.getElementById('alert').checkVisibility()");
    assert_eq!(errors(&tab), [""; 0]);
    close(&runtime, shop);
}

#[test]
fn names_of_products_are_text_and_never_markup() {
    let runtime = Runtime::new().unwrap();
    let (shop, url) = open(&runtime);
    let name = "<img src=x onerror=\"document.title='owned'\">";
    runtime.block_on(shop.products.add(name, 1, 1)).unwrap();
    let mut tab = Tab::open(390, false);
    tab.go(&url);
    tab.until(&says(name));
    assert_eq!(tab.eval("document.images.length"), 0);
    assert_eq!(tab.eval("document.title"), "A small shop");
    assert_eq!(errors(&tab), [""; 0]);
    // And if the script were careless, the browser would not be.
    let careless = "(() => { try { document.body.innerHTML = '<b>'; return 'markup' } catch { return 'refused' } })()";
    assert_eq!(tab.eval(careless), "refused");
    close(&runtime, shop);
}
