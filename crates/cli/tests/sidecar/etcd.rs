//! Discovery by etcd.

use gusset_engines::Etcd;

use crate::harness::*;

#[test]
fn services_find_one_another_by_etcd_and_leave_it() {
    let etcd = Etcd::start();
    let url = format!("etcd://{}", etcd.address());
    let (cart, shop) = (App::start(|_| "items".into()), App::start(|_| String::new()));
    let side = |service: &str, app: &App| {
        let app = app.address.to_string();
        Sidecar::spawn(&["--service", service, "--app", &app, "--registry", &url])
    };
    let (mut cart_side, shop_side) = (side("cart", &cart), side("shop", &shop));
    cart_side.wait_until_registered("yes");
    assert_eq!(shop_side.found("cart", "/"), (200, "items".into()));
    cart_side.signal("-TERM");
    assert_eq!(cart_side.ended(), 0);
    eventually("it has left", || (get(shop_side.outbound, "cart", "/").0 == 503).then_some(()));
}
