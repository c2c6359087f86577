use std::{error::Error as _, time::Duration};

use gusset_broker::{
    Delivery, Error, Limits, Message, NatsEngine, NatsError, NatsOptions, Policy, WhenFull,
};
use gusset_call::BoxError;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::sleep,
};
use tower::service_fn;

use crate::harness::{Log, Server, connect, dead, fail, hasty, listen, soon, until};

async fn refusal(options: NatsOptions) -> NatsError {
    let options = options.call_within(Duration::from_secs(2));
    NatsEngine::connect(options, Limits::new()).await.unwrap_err()
}

fn nats(error: &Error) -> &NatsError {
    error.source().and_then(|source| source.downcast_ref()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_serve_is_refused_at_once_and_says_why() {
    let server = Server::start_with(&[]);
    let error = refusal(server.options()).await;
    assert!(matches!(error, NatsError::NoJetStream), "{error:?}");

    let nobody = Server::down();
    assert!(matches!(refusal(nobody.options()).await, NatsError::Unreachable(_)));

    let strange = NatsOptions::new(server.url()).namespace("a.b");
    assert!(matches!(refusal(strange).await, NatsError::Namespace(name) if name == "a.b"));

    let secret = Server::start_with(&["-js", "--auth", "s3cret"]);
    assert!(matches!(refusal(secret.options()).await, NatsError::Unreachable(_)));
    NatsEngine::connect(secret.options().token("s3cret"), Limits::new()).await.unwrap();
}

/// One that says it is older, and one that says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_and_a_mute_one_are_refused() {
    for (greeting, expected) in [
        (
            "INFO {\"server_id\":\"x\",\"version\":\"2.8.4\",\"max_payload\":1048576,\"headers\":true}\r\n",
            "older than 2.9",
        ),
        ("", "cannot be reached"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(greeting.as_bytes()).await.unwrap();
            let mut heard = [0; 4_096];
            while stream.read(&mut heard).await.is_ok_and(|n| n > 0) {
                if !greeting.is_empty() {
                    let _ = stream.write_all(b"PONG\r\n").await;
                }
            }
        });
        let error = refusal(NatsOptions::new(url)).await;
        assert!(error.to_string().contains(expected), "{error}");
        serving.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_newer_format_or_of_somebody_else_are_left_alone() {
    let server = Server::start();
    let operator = server.operator().await;
    for (stream, description) in
        [("newer", "gusset-broker format 2"), ("foreign", "orders of the shop")]
    {
        let config = json!({
            "name": stream, "description": description, "subjects": [format!("{stream}.message.>")],
        });
        let made = operator.api(&format!("STREAM.CREATE.{stream}"), config).await;
        assert!(made["error"].is_null(), "{made}");
        let error = refusal(server.options().namespace(stream)).await;
        match stream {
            "newer" => assert!(matches!(error, NatsError::Newer { format: 2, .. }), "{error:?}"),
            _ => assert!(matches!(error, NatsError::Foreign(_)), "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_on_one_server_do_not_meet() {
    let server = Server::start();
    let here = server.broker().await;
    let there = connect(server.options().namespace("other")).await;
    let (_a, log) = listen(&here, ">", "g").await;
    let (_b, other) = listen(&there, ">", "g").await;
    there.publish("a", &1).await.unwrap();
    other.has(1).await;
    assert_eq!(log.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_found_again_only_with_its_pattern() {
    let server = Server::start();
    let (here, there) = (server.broker().await, server.broker().await);
    here.declare("g", "order.*", Policy::new()).await.unwrap();
    let declared = there.declare("g", "order.>", Policy::new()).await;
    let what = |result| match result {
        Err(Error::GroupDiffers { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what(declared), "pattern");
    assert_eq!(what(here.declare("g", ">", Policy::new()).await), "pattern");
    let (_subscription, _) = listen(&here, "order.*", "g").await;
    assert_eq!(what(here.declare("g", "order.*", hasty()).await), "policy");
    // Another process has its own mind about attempts.
    there.declare("g", "order.*", hasty()).await.unwrap();
    let long = there.declare(&"ü".repeat(60), ">", Policy::new()).await;
    assert!(matches!(long, Err(Error::GroupName(_))), "{long:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_cannot_do_is_refused() {
    let server = Server::start();
    let broker = server.broker().await;
    let capabilities = broker.capabilities();
    assert!(capabilities.durable && capabilities.dedup && !capabilities.drop_oldest);
    let policy = Policy::new().when_full(WhenFull::DropOldest);
    let refused = broker.declare("g", ">", policy).await;
    assert!(matches!(refused, Err(Error::Unsupported { engine: "nats", .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_refuses_and_takes_again_when_there_is_room() {
    let server = Server::start();
    let options = server.options().max_messages(10).call_within(Duration::from_secs(2));
    let broker = connect(options).await;
    broker.declare("g", ">", Policy::new()).await.unwrap();
    for n in 0..10 {
        broker.publish("a", &n).await.unwrap();
    }
    let full = broker.publish("a", &10).await;
    assert!(matches!(full, Err(Error::Full(_))), "{full:?}");
    let patient = server.options().max_messages(10).call_within(Duration::from_secs(60));
    let patient = connect(patient).await;
    let waiting = tokio::spawn(async move { patient.publish("a", &11).await });
    sleep(Duration::from_millis(200)).await;
    let (_subscription, log) = listen(&broker, ">", "g").await;
    waiting.await.unwrap().unwrap();
    log.has(11).await;
    let mut all = log.all();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_could_not_be_buried_is_refused_when_it_is_published() {
    let server = Server::start();
    let broker = server.broker().await;
    let (_subscription, _) = fail(&broker, "g", hasty().max_attempts(1)).await;
    let huge = Message::new("a", vec![b'x'; 1 << 20]).unwrap();
    let refused = broker.publish_message(huge).await;
    assert!(
        matches!(refused, Err(Error::TooLarge { limit, .. }) if limit < 1 << 20),
        "{refused:?}"
    );
    let largest = vec![b'x'; (1 << 20) - (24 << 10) - 1];
    let largest = Message::new("a", largest).unwrap();
    broker.publish_message(largest.clone()).await.unwrap();
    assert_eq!(dead(&broker, 1).await[0].message.payload(), largest.payload());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_publishes_is_taken_and_what_a_newer_one_does_is_left() {
    let server = Server::start();
    let broker = server.broker().await;
    let log = Log::default();
    let noted = log.clone();
    let _subscription = broker
        .subscribe(">")
        .group("g")
        .policy(hasty().max_attempts(2))
        .handle_raw(service_fn(move |delivery: Delivery| {
            noted.note((delivery.id(), delivery.attempt().number()));
            async { Err::<(), _>(BoxError::from("no")) }
        }))
        .await
        .unwrap();
    let operator = server.operator().await;
    operator.0.publish("gusset.message.a", "plain".into()).await.unwrap();
    let letter = dead(&broker, 1).await.remove(0);
    assert_eq!(letter.message.payload(), "plain");
    let seen = log.all();
    assert_eq!((seen[0].0, seen[0].1, seen[1].1), (seen[1].0, 1, 2), "the same id each time");

    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Gusset", "2 at=whatever");
    operator.0.publish_with_headers("gusset.message.a", headers, "newer".into()).await.unwrap();
    operator.0.flush().await.unwrap();
    until("delivered", async || operator.group("g").await["num_ack_pending"] == 1).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!((log.len(), operator.messages("gusset").await), (2, 1), "it waits for others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_of_a_newer_format_is_refused_clearly() {
    let server = Server::start();
    let broker = server.broker().await;
    let operator = server.operator().await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Gusset", "1 at=1");
    headers.insert("Gusset-Dead", r#"{"format":3,"all":"else","is":"different"}"#);
    let place = "gusset.dead.g.a";
    operator.0.publish_with_headers(place, headers, "x".into()).await.unwrap();
    operator.0.flush().await.unwrap();
    until("it is there", async || operator.messages("gusset_dead").await == 1).await;
    let all = gusset_broker::Filter::all();
    let refused = broker.dead_letters().list(&all, None, 10).await.unwrap_err();
    assert!(matches!(nats(&refused), NatsError::Newer { format: 3, .. }), "{refused:?}");
    broker.close(soon()).await;
}
