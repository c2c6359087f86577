//! Where faults are switched and the load is changed while a shop is open, over HTTP on this machine.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /chaos` | all faults: what they do, whether they can be brought about here, whether they are on; and what was switched when |
//! | `PUT /chaos/{fault}` with `{"on": true}` | switches one |
//! | `DELETE /chaos` | switches all off |
//! | `GET /load` | how many requests a second there are |
//! | `PUT /load` with `{"rps": 50}` | changes that |
//!
//! Whoever breaks things here is a person at this machine. So a request has to name this machine as its host, or a page of a name that its owner lets point here could
//! ask; and a request of a page has to be one of the same origin.

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn},
    response::Response,
    routing::{get, put},
};
use gusset::call::Problem;
use http::{HeaderMap, StatusCode, Uri, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{Json, Path, problem},
    chaos::{Chaos, Fault, Moment},
    load::Rate,
};

/// The desk of a shop with these switches, and customers that come at this rate.
pub fn router(chaos: Chaos, rate: Rate) -> Router {
    let faults = Router::new()
        .route("/chaos", get(faults).delete(calm))
        .route("/chaos/{fault}", put(switch))
        .with_state(chaos);
    let load = Router::new().route("/load", get(load).put(set_load)).with_state(rate);
    faults.merge(load).layer(from_fn(of_this_machine))
}

#[derive(Deserialize)]
struct Switch {
    on: bool,
}

#[derive(Deserialize)]
struct PerSecond {
    rps: u32,
}

async fn faults(State(chaos): State<Chaos>) -> axum::Json<Value> {
    axum::Json(told(&chaos))
}

async fn calm(State(chaos): State<Chaos>) -> axum::Json<Value> {
    chaos.calm();
    axum::Json(told(&chaos))
}

async fn switch(
    State(chaos): State<Chaos>,
    Path(fault): Path<String>,
    Json(Switch { on }): Json<Switch>,
) -> Result<axum::Json<Value>, Problem> {
    let fault: Fault = fault.parse().map_err(|error| problem(StatusCode::NOT_FOUND, error))?;
    let not_here = |error: crate::chaos::NotHere| problem(StatusCode::CONFLICT, error.to_string());
    chaos.set(fault, on).map_err(not_here)?;
    Ok(axum::Json(described(&chaos, fault)))
}

async fn load(State(rate): State<Rate>) -> axum::Json<Value> {
    axum::Json(json!({ "rps": rate.get() }))
}

async fn set_load(
    State(rate): State<Rate>,
    Json(PerSecond { rps }): Json<PerSecond>,
) -> Result<axum::Json<Value>, Problem> {
    if rps > Rate::MOST {
        let detail = format!("rps: 0 to {}, not {rps}", Rate::MOST);
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    rate.set(rps);
    Ok(axum::Json(json!({ "rps": rps })))
}

fn told(chaos: &Chaos) -> Value {
    let faults: Vec<_> = Fault::all().map(|fault| described(chaos, fault)).collect();
    let moment = |Moment { after, fault, on }: &Moment| json!({ "after_seconds": after.as_secs_f64(), "fault": fault, "on": on });
    let happened: Vec<_> = chaos.happened().iter().map(moment).collect();
    json!({ "faults": faults, "happened": happened })
}

fn described(chaos: &Chaos, fault: Fault) -> Value {
    json!({
        "name": fault,
        "meaning": fault.meaning(),
        "here": chaos.is_offered(fault),
        "on": chaos.is_on(fault),
    })
}

async fn of_this_machine(request: Request, next: Next) -> Response {
    let detail = if !is_for_this_machine(request.headers()) {
        "the host must be localhost or an address of loopback"
    } else if !is_of_this_origin(request.headers()) {
        "pages of other origins get no answer here"
    } else {
        return next.run(request).await;
    };
    axum::response::IntoResponse::into_response(problem(StatusCode::FORBIDDEN, detail))
}

fn is_for_this_machine(headers: &HeaderMap) -> bool {
    let Some(uri) = host(headers).and_then(|host| host.parse::<Uri>().ok()) else { return false };
    let name = uri.host().unwrap_or_default();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// What no page sends has none.
fn is_of_this_origin(headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    origins.all(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        origin.is_some() && origin == host(headers)
    })
}

/// The only one.
fn host(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::HOST).iter();
    let host = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(host)
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    async fn ask(desk: &Router, line: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = desk
            .clone()
            .oneshot(request.body(axum::body::Body::from(body.to_owned())).unwrap())
            .await;
        let answer = answer.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    const HERE: (&str, &str) = ("host", "127.0.0.1:81");

    #[tokio::test]
    async fn a_fault_is_switched_on_and_off_and_what_is_on_is_told() {
        let chaos = Chaos::default();
        let desk = router(chaos.clone(), Rate::per_second(20));
        let (status, slow) = ask(&desk, "PUT /chaos/mail-slow", &[HERE], r#"{"on":true}"#).await;
        assert_eq!((status, &slow["on"]), (200, &json!(true)));
        assert!(chaos.is_on(Fault::MailSlow));
        let (status, told) = ask(&desk, "GET /chaos", &[HERE], "").await;
        assert_eq!(status, 200);
        assert_eq!(told["faults"].as_array().unwrap().len(), Fault::all().count());
        assert_eq!(told["happened"][0]["fault"], "mail-slow");
        let (status, _) = ask(&desk, "DELETE /chaos", &[HERE], "").await;
        assert_eq!(status, 200);
        assert!(chaos.on().is_empty());
    }

    #[tokio::test]
    async fn what_is_none_or_cannot_be_here_is_said() {
        let desk = router(Chaos::default(), Rate::per_second(20));
        for (line, body, expected) in [
            ("PUT /chaos/fire", r#"{"on":true}"#, 404),
            ("PUT /chaos/redis-down", r#"{"on":true}"#, 409),
            ("PUT /chaos/mail-slow", r#"{"off":true}"#, 422),
            ("PUT /chaos/mail-slow", "on", 400),
            ("PUT /load", r#"{"rps":10001}"#, 422),
            ("PUT /load", r#"{"rps":-1}"#, 422),
            ("POST /chaos", "", 405),
        ] {
            assert_eq!(ask(&desk, line, &[HERE], body).await.0, expected, "{line} {body}");
        }
    }

    #[tokio::test]
    async fn the_load_is_read_and_changed() {
        let rate = Rate::per_second(20);
        let desk = router(Chaos::default(), rate.clone());
        assert_eq!(ask(&desk, "GET /load", &[HERE], "").await.1, json!({ "rps": 20 }));
        assert_eq!(ask(&desk, "PUT /load", &[HERE], r#"{"rps":300}"#).await.0, 200);
        assert_eq!(rate.get(), 300);
    }

    #[tokio::test]
    async fn requests_for_other_hosts_and_of_pages_of_other_origins_change_nothing() {
        let chaos = Chaos::default();
        let desk = router(chaos.clone(), Rate::per_second(20));
        let refused: &[&[(&str, &str)]] = &[
            &[],
            &[("host", "shop.example:81")],
            &[("host", "127.0.0.1.example")],
            &[("host", "192.168.0.1")],
            &[("host", "localhost"), ("host", "evil.example")],
            &[HERE, ("origin", "http://evil.example")],
            &[HERE, ("origin", "null")],
            &[HERE, ("origin", "http://127.0.0.1:82")],
            &[HERE, ("origin", "https://127.0.0.1:81")],
            &[HERE, ("origin", "http://127.0.0.1:81"), ("origin", "http://evil.example")],
        ];
        for headers in refused {
            let (status, _) = ask(&desk, "PUT /chaos/mail-slow", headers, r#"{"on":true}"#).await;
            assert_eq!(status, 403, "{headers:?}");
            assert_eq!(ask(&desk, "GET /chaos", headers, "").await.0, 403, "{headers:?}");
        }
        assert!(chaos.on().is_empty());
        let allowed: &[&[(&str, &str)]] = &[
            &[("host", "localhost:81")],
            &[("host", "[::1]:81")],
            &[HERE, ("origin", "http://127.0.0.1:81")],
        ];
        for headers in allowed {
            assert_eq!(ask(&desk, "GET /chaos", headers, "").await.0, 200, "{headers:?}");
        }
    }
}
