use super::*;
use proptest::prelude::*;

#[test]
fn a_newer_format_and_a_stream_of_somebody_else_are_refused() {
    assert!(check_format("stream x", "gusset-broker format 1").is_ok());
    let newer = check_format("stream x", "gusset-broker format 2").unwrap_err();
    assert_eq!(newer.to_string(), "stream x has format 2, this program knows formats up to 1");
    assert!(matches!(check_format("x", "orders"), Err(NatsError::Foreign(_))));
    assert!(matches!(check_format("x", ""), Err(NatsError::Foreign(_))));
}

#[test]
fn the_order_of_a_group_is_found_again_in_its_description() {
    let description = format!("{MARK}{FORMAT}{ORDERED}header k 2");
    assert!(check_format("group g", &description).is_ok());
    assert_eq!(order_in(&description), Some("header k 2"));
    assert_eq!(order_in("gusset-broker format 1"), None);
}

#[test]
fn subjects_are_found_again_in_their_places() {
    let layout = Layout::new("shop");
    let place = layout.message("order.created");
    assert_eq!(place, "shop.message.order.created");
    assert_eq!(layout.subject_of(&place).unwrap().as_str(), "order.created");
    let place = layout.dead_letter(&token_of("a.b"), "order.created");
    assert_eq!(place, "shop.dead.a=2Eb.order.created");
    assert_eq!(layout.subject_of_dead(&place).unwrap().as_str(), "order.created");
    assert!(layout.subject_of("other.message.order.created").is_none());
}

proptest! {
    #[test]
    fn every_name_of_a_group_is_found_again_in_its_token(name in "\\PC{1,40}") {
        let token = token_of(&name);
        prop_assert!(!token.contains(['.', '*', '>', '/', '\\', ' ']));
        prop_assert_eq!(group_of(&token), Some(name));
    }

    #[test]
    fn no_text_is_a_token_that_panics(text in "\\PC{0,20}") {
        let _ = group_of(&text);
    }
}
