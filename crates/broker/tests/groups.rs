//! Groups, copies and competition, as publishers and handlers see them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset_broker::{Broker, Delivery};
use gusset_call::BoxError;
use tokio::time::sleep;
use tower::service_fn;

#[tokio::test(start_paused = true)]
async fn every_group_gets_every_message_once_and_its_members_compete() {
    let broker = Broker::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listen = |who: &'static str, group: Option<&str>| {
        let seen = seen.clone();
        let subscription = broker.subscribe("order.*");
        let subscription = match group {
            Some(group) => subscription.group(group),
            None => subscription,
        };
        subscription
            .handle(service_fn(move |delivery: Delivery<u32>| {
                let seen = seen.clone();
                async move {
                    seen.lock().unwrap().push((who, *delivery.body()));
                    sleep(Duration::from_millis(1)).await;
                    Ok::<_, BoxError>(())
                }
            }))
            .unwrap()
    };
    let _guards = [
        listen("inventory", Some("inventory")),
        listen("inventory", Some("inventory")),
        listen("mail", Some("mail")),
        listen("one", None),
        listen("two", None),
    ];
    for n in 0..100 {
        assert_eq!(broker.publish("order.created", &n).await.unwrap().groups, 4);
    }
    sleep(Duration::from_secs(1)).await;
    for who in ["inventory", "mail", "one", "two"] {
        let mut got: Vec<_> =
            seen.lock().unwrap().iter().filter(|(w, _)| *w == who).map(|(_, n)| *n).collect();
        got.sort_unstable();
        assert_eq!(got, (0..100).collect::<Vec<_>>(), "{who}");
    }
}
