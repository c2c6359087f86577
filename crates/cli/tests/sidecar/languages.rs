//! Programs in other languages, as they are, that find one another.

use crate::harness::*;

fn script(name: &str) -> String {
    format!("{}/tests/sidecar/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn python_and_node_as_they_are_find_each_other_by_name() {
    let registry = Registry::start();
    let (cart_port, mail_port) = (free_port(), free_port());
    let (cart_text, mail_text) = (cart_port.to_string(), mail_port.to_string());
    let (cart_file, mail_file) = (script("cart.py"), script("mail.js"));
    let cart = ["--health", "/items", "--proxy-env", "--", "python3", &cart_file, &cart_text];
    let mail = ["--", "node", &mail_file, &mail_text];
    let mut cart = Sidecar::start("cart", ([127, 0, 0, 1], cart_port).into(), &registry, &cart);
    let mut mail = Sidecar::start("mail", ([127, 0, 0, 1], mail_port).into(), &registry, &mail);
    registry.wait_for("cart", 1);
    registry.wait_for("mail", 1);

    // From Python to Node by a proxy's setting, from there to Python by a name.
    let answer = get(cart.inbound, "cart", "/order");
    assert_eq!(answer, (200, "ordered, mail of order: three items".into()));
    for side in [&mut cart, &mut mail] {
        side.signal("-TERM");
        assert_eq!(side.ended(), 143, "neither has a handler for SIGTERM");
    }
    registry.wait_for("mail", 0);
}
