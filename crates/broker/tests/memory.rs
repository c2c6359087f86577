//! What a queued message costs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

use gusset_broker::{Broker, Message, Policy, Subject};
use tokio::runtime::Builder;

/// Bytes for each message of 64 bytes in a broker where so many groups have all of them.
fn each(messages: u32, groups: u32) -> f64 {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let (broker, subject) = (Broker::new(), Subject::new("order.created").unwrap());
    for group in 0..groups {
        let policy = Policy::new().capacity(messages as usize);
        runtime.block_on(broker.declare(&format!("g{group}"), ">", policy)).unwrap();
    }
    let made = allocation_counter::measure(|| {
        for _ in 0..messages {
            let message = Message::new(subject.clone(), vec![7; 64]).unwrap();
            runtime.block_on(broker.publish_message(message)).unwrap();
        }
    });
    for group in broker.stats().groups {
        assert_eq!(group.ready, messages as usize);
    }
    made.bytes_current as f64 / f64::from(messages)
}

/// The second is where the line of what is ready has just doubled.
const LENGTHS: [u32; 3] = [1_024, 16_385, 40_000];

#[test]
fn a_queued_message_of_64_bytes_takes_less_than_200_bytes_its_payload_included() {
    for messages in LENGTHS {
        let each = each(messages, 1);
        assert!(each > 64.0 && each < 64.0 + 136.0, "{each} bytes for each of {messages}");
    }
}

#[test]
fn each_further_group_that_has_a_message_takes_less_than_40_bytes_for_it() {
    for messages in LENGTHS {
        let more = each(messages, 2) - each(messages, 1);
        assert!(more > 0.0 && more < 40.0, "{more} bytes for each of {messages}");
    }
}
