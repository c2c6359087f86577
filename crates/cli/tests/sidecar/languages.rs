//! Programs in other languages, as they are, that find one another.

use gusset_engines::Port;

use crate::harness::*;

fn script(name: &str) -> String {
    format!("{}/tests/sidecar/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn python_and_node_as_they_are_find_each_other_by_name() {
    let registry = Registry::start();
    let (cart_port, mail_port) = (Port::free(), Port::free());
    let (cart_text, mail_text) = (cart_port.number().to_string(), mail_port.number().to_string());
    let (cart_file, mail_file) = (script("cart.py"), script("mail.js"));
    let cart = ["--health", "/items", "--proxy-env", "--", "python3", &cart_file, &cart_text];
    let mail = ["--", "node", &mail_file, &mail_text];
    let at = |port: &Port| ([127, 0, 0, 1], port.number()).into();
    let mut cart = Sidecar::start("cart", at(&cart_port), &registry, &cart);
    let mut mail = Sidecar::start("mail", at(&mail_port), &registry, &mail);
    registry.wait_for("cart", 1);
    registry.wait_for("mail", 1);
    // Node says what it gets from the other one, and both sidecars have found whom they look for.
    eventually("each finds the other", || {
        (cart.found("mail", "/").1 == "mail of : three items").then_some(())
    });

    // From Python to Node by a proxy's setting, from there to Python by a name.
    let answer = get(cart.inbound, "cart", "/order");
    assert_eq!(answer, (200, "ordered, mail of order: three items".into()));
    for side in [&mut cart, &mut mail] {
        side.signal("-TERM");
        assert_eq!(side.ended(), 143, "neither has a handler for SIGTERM");
    }
    registry.wait_for("mail", 0);
}
