use http::Request;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};

use super::*;
use crate::{Descriptors, compose::Composition, routes::Methods};

fn descriptors() -> Descriptors {
    Descriptors::from_bytes(include_bytes!("../../../tests/shop/shop.binpb")).unwrap()
}

/// That of the annotation of this number.
fn of(method: &str, number: usize) -> Transcoder {
    let routes = descriptors().routes("shop.v1.Orders", "orders").unwrap();
    let mut of_method = routes.iter().filter_map(|route| match &route.composition {
        Some(Composition::Grpc(grpc)) if grpc.method.name() == method => Some((route, grpc)),
        _ => None,
    });
    let (route, grpc) = of_method.nth(number).unwrap();
    Transcoder::compile(route, grpc).unwrap()
}

fn message(transcoder: &Transcoder, uri: &str, body: &str) -> Result<Value, String> {
    let head = Request::builder().uri(uri).body(()).unwrap().into_parts().0;
    let message = transcoder.message(&head, &Bytes::copy_from_slice(body.as_bytes()));
    message.map(|message| serde_json::to_value(&message).unwrap()).map_err(|Unfit(why)| why)
}

#[test]
fn path_and_query_become_fields_of_every_kind() {
    let get = of("Get", 0);
    assert_eq!(message(&get, "/v1/orders/a%2Bb%20%C3%BC", "").unwrap(), json!({"id": "a+b ü"}));
    let query = "page_size=10&customer.name=A+B%26&customer.age=7&kinds=GIFT&kinds=2&open=true\
        &since=2024-01-01T00:00:00Z&fields=id,customer.name&paid=false";
    assert_eq!(
        message(&get, &format!("/v1/orders/7?{query}"), "").unwrap(),
        json!({
            "id": "7", "pageSize": 10, "customer": {"name": "A B&", "age": 7}, "kinds": ["GIFT", "SALE"],
            "open": true, "since": "2024-01-01T00:00:00Z", "fields": "id,customer.name", "paid": false,
        })
    );
    let json_names = message(&get, "/v1/orders/7?pageSize=3", "").unwrap();
    assert_eq!(json_names, json!({"id": "7", "pageSize": 3}));
    let nested = message(&of("Get", 2), "/v1/customers/ann/shops/3/orders/7", "").unwrap();
    assert_eq!(nested, json!({"id": "7", "parent": "customers/ann/shops/3"}));
}

#[test]
fn a_parameter_can_be_a_field_of_another_name() {
    let get = descriptors().method("shop.v1.Orders/Get").unwrap();
    let route = Route::new("/of/{name}").methods([Method::GET]).to("orders");
    let route = route.grpc(get.clone().parameter("name", "customer.name"));
    let transcoder = Transcoder::compile(&route, &get.parameter("name", "customer.name")).unwrap();
    let read = message(&transcoder, "/of/ann", "").unwrap();
    assert_eq!(read, json!({"customer": {"name": "ann"}}));
}

#[test]
fn a_body_is_the_message_or_one_of_its_fields() {
    let update = of("Update", 0);
    let body = r#"{"totalCents": "9007199254740993", "seal": "AQI=", "items": {"pen": 2}, "weight": 0, "serial": "18446744073709551615"}"#;
    assert_eq!(
        message(&update, "/v1/orders/7", body).unwrap(),
        json!({"id": "7", "totalCents": "9007199254740993", "seal": "AQI=", "items": {"pen": 2}, "weight": 0.0, "serial": "18446744073709551615"})
    );
    assert_eq!(message(&update, "/v1/orders/7", " ").unwrap(), json!({"id": "7"}));
    let create = of("Create", 0);
    assert_eq!(
        message(&create, "/v1/customers/ann/orders?dry_run=true&customer.age=3", r#"{"id": "x"}"#)
            .unwrap(),
        json!({"order": {"id": "x"}, "customer": {"name": "ann", "age": 3}, "dryRun": true})
    );
}

#[test]
fn nothing_says_what_the_path_says_but_the_path() {
    let update = of("Update", 0);
    for body in [r#"{"id": "other"}"#, r#"{"id": null}"#, r#"{"id": ["other"]}"#] {
        assert_eq!(message(&update, "/v1/orders/7", body).unwrap(), json!({"id": "7"}), "{body}");
    }
    for uri in ["/v1/orders/7?id=8", "/v1/orders/7?%69d=8"] {
        assert!(message(&of("Get", 0), uri, "").unwrap_err().contains("said elsewhere"), "{uri}");
    }
    let create = of("Create", 0);
    for query in ["customer.name=eve", "order.id=2", "order.customer.name=eve"] {
        let uri = format!("/v1/customers/ann/orders?{query}");
        assert!(message(&create, &uri, "{}").unwrap_err().contains("said elsewhere"), "{query}");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_named() {
    let (get, update) = (of("Get", 0), of("Update", 0));
    for (transcoder, uri, body, reason) in [
        (&get, "/v1/orders/7?nobody=1", "", "\"nobody\""),
        (&get, "/v1/orders/7?customer.nobody=1", "", "\"nobody\""),
        (&get, "/v1/orders/7?id.more=1", "", "no message"),
        (&get, "/v1/orders/7?customer=1", "", "is a message"),
        (&get, "/v1/orders/7?page_size=many", "", "page_size: invalid"),
        (&get, "/v1/orders/7?page_size=1&pageSize=2", "", "said twice"),
        (&get, "/v1/orders/7?open=yes", "", "true or false"),
        (&get, "/v1/orders/7?kinds=BEST", "", "kinds: "),
        (&get, "/v1/orders/7?since=today", "", "since: "),
        (&get, "/v1/orders/7?page_size=%zz", "", "not well encoded"),
        (&get, "/v1/orders/%ff", "", "no text"),
        (&get, "/v1/orders/7", "{}", "there is none here"),
        (&update, "/v1/orders/7?dry_run=1", "{}", "\"dry_run\""),
        (&update, "/v1/orders/7?kind=GIFT", "{}", "said elsewhere"),
        (&update, "/v1/orders/7", "[]", "an object"),
        (&update, "/v1/orders/7", "{", "body: EOF"),
        (&update, "/v1/orders/7", r#"{"nobody": 1}"#, "nobody"),
        (&update, "/v1/orders/7", r#"{"totalCents": "many"}"#, "column 21"),
        (&update, "/v1/orders/7", r#"{"kind": "BEST"}"#, "body: "),
    ] {
        let error = message(transcoder, uri, body).unwrap_err();
        assert!(error.to_lowercase().contains(&reason.to_lowercase()), "{uri} {body}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert!(message(&update, "/v1/orders/7", &format!(r#"{{"more": {{"a": {deep}"#)).is_err());
}

#[test]
fn answers_are_written_as_they_are_asked_for() {
    let text = |transcoder: &Transcoder, message: Value| {
        let of = transcoder.method.output();
        let message = DynamicMessage::deserialize(of, message).unwrap();
        let bytes = prost::Message::encode_to_vec(&message).into();
        String::from_utf8(transcoder.shape.json(&bytes).unwrap()).unwrap()
    };
    let order = json!({"id": "7", "totalCents": "5", "rate": 0.1, "kind": "GIFT"});
    assert_eq!(
        text(&of("Get", 0), order),
        r#"{"id":"7","totalCents":"5","kind":"GIFT","rate":0.1}"#
    );
    assert_eq!(text(&of("Get", 1), json!({"tags": ["a", "b"]})), r#"["a","b"]"#);
    assert_eq!(text(&of("Get", 1), json!({"id": "7"})), "[]");
    let broken = of("Get", 0).shape.json(&Bytes::from_static(&[0xff]));
    assert!(broken.is_err());
}

#[test]
fn a_method_that_a_route_cannot_ask_for_is_refused_with_its_reason() {
    let shop = descriptors();
    let method = |name: &str| shop.method(&format!("shop.v1.Orders/{name}")).unwrap();
    let route = |path: &str| Route::new(path).to("orders");
    let get = |path: &str, method| route(path).methods([Method::GET]).grpc(method);
    for (route, reason) in [
        (route("/a").grpc(method("Get")), "methods([…])"),
        (route("/a").methods([Method::GET, Method::POST]).grpc(method("Get")), "two routes"),
        (get("/{nobody}", method("Get")), "no field \"nobody\""),
        (get("/{name}", method("Get").parameter("other", "id")), "no parameter \"other\""),
        (get("/{name}", method("Get").parameter("name", "no.body")), "no field \"no\""),
        (get("/{customer}", method("Get")), "nothing that a path can say"),
        (get("/{kinds}", method("Get")), "nothing that a path can say"),
        (get("/a", method("Get").body("nobody")), "no field \"nobody\""),
        (get("/a", method("Get").body("customer.name")), "no field of the message itself"),
        (get("/a", method("Get").response_body("nobody")), "no field \"nobody\""),
        (get("/a", method("Import")), "takes a stream"),
        (get("/a", method("Get")).rewrite("/b"), "the path of its own"),
    ] {
        let Some(Composition::Grpc(grpc)) = &route.composition else { panic!("no method") };
        let error = Transcoder::compile(&route, grpc).err().unwrap();
        assert!(error.contains(reason), "{reason}: {error}");
    }
    for unknown in ["shop.v1.Orders/Nothing", "shop.v1.Nothing/Get", "Get", ""] {
        assert!(shop.method(unknown).is_err(), "{unknown}");
    }
    assert!(shop.routes("shop.v1.Nothing", "orders").is_err());
    assert!(Descriptors::from_bytes(b"no descriptors").is_err());
}

#[test]
fn every_annotation_is_a_route() {
    let routes = descriptors().routes("shop.v1.Orders", "orders").unwrap();
    let told: Vec<_> = routes.iter().map(|route| (&*route.path, route.methods.clone())).collect();
    let by = |method| Methods::these([method]);
    assert_eq!(
        told,
        [
            ("/v1/orders/{id}", by(Method::GET)),
            ("/v1/tags/{id}", by(Method::GET)),
            ("/v1/customers/{parent}/shops/{parent_2}/orders/{id}", by(Method::GET)),
            ("/v1/customers/{customer_name}/orders", by(Method::POST)),
            ("/v1/orders/{id}", by(Method::PATCH)),
            ("/v1/orders", by(Method::GET)),
            ("/v1/orders:import", by(Method::POST)),
            ("/v1/orders:talk", by(Method::POST)),
        ]
    );
    assert!(of("Update", 0).idempotent && !of("Create", 0).idempotent);
}
