use gusset_engines::holds;

#[test]
fn targets_have_one_spelling() {
    holds("target", super::target);
}

#[test]
fn a_route_is_found_if_one_fits() {
    holds("route", super::route);
}

#[test]
fn nothing_of_a_connection_goes_on() {
    holds("headers", super::headers);
}

#[test]
fn a_client_is_its_peer_or_what_a_trusted_one_says() {
    holds("forwarded", super::forwarded);
}

#[test]
fn requests_are_the_same_however_they_come_in() {
    holds("request", super::request);
}

#[test]
fn answers_are_the_same_however_they_come_in() {
    holds("answer", super::answer);
}

#[cfg(feature = "jwt")]
#[test]
fn nobody_is_let_in_by_what_was_not_signed() {
    holds("jwt", super::jwt);
}

#[cfg(feature = "config")]
#[test]
fn no_file_makes_its_reader_stumble() {
    holds("config", super::config);
}

#[cfg(feature = "jwt")]
#[test]
fn no_set_of_keys_from_afar_has_one_that_others_could_sign_with() {
    holds("keys", super::keys);
}

#[cfg(feature = "redis")]
#[test]
fn what_a_store_kept_of_an_answer_is_written_again_as_it_was() {
    holds("stored", super::stored);
}

#[cfg(feature = "grpc-json")]
#[test]
fn messages_of_a_stream_are_the_same_however_they_come_in() {
    holds("frames", super::frames);
}

#[cfg(feature = "grpc-json")]
#[test]
fn descriptors_become_routes_or_a_reason() {
    holds("descriptors", super::descriptors);
}

#[cfg(feature = "grpc-json")]
#[test]
fn a_request_in_json_becomes_a_message_or_a_reason() {
    holds("transcoded", super::transcoded);
}

#[cfg(feature = "grpc-json")]
#[test]
fn documents_of_branches_become_one() {
    holds("document", super::document);
}
