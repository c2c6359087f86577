#![allow(clippy::expect_used, reason = "a test kit: what is not as expected fails the case")]

mod journal;
mod leases;
mod lists;
mod mail;
mod outbox;

use futures_util::FutureExt;

use super::Case;

macro_rules! all {
    ($($group:ident::$name:ident)*) => {
        pub(super) const ALL: &[Case] = &[$(Case {
            name: stringify!($name),
            run: |bed| async move { $group::$name(bed).await.expect("the store answers as it must") }.boxed_local(),
        }),*];
    };
}

all! {
    journal::a_journal_begins_once_and_is_read_back_after_the_store_was_opened_anew
    journal::an_append_needs_the_end_of_the_journal
    journal::an_append_has_all_its_records_or_none
    journal::of_two_writers_at_one_place_one_wins
    journal::an_older_epoch_can_neither_append_nor_renew_nor_release
    leases::what_somebody_holds_nobody_claims_until_the_lease_lapses
    leases::an_append_prolongs_the_lease
    leases::a_lapsed_lease_that_nobody_claimed_is_still_good
    leases::a_released_saga_is_claimed_at_once_and_its_note_is_handed_on
    leases::a_parked_saga_is_due_at_its_time_and_not_before
    leases::a_parked_saga_without_a_time_is_claimed_by_name_only
    leases::what_has_ended_is_neither_claimed_nor_written
    leases::the_one_that_is_due_for_longest_comes_first_and_never_more_than_wanted
    leases::an_unknown_definition_is_left_to_who_knows_it_until_it_is_an_orphan
    leases::sixteen_claimers_at_once_never_get_the_same_saga
    leases::holders_that_fall_silent_are_counted_until_there_is_progress
    mail::mail_comes_once_in_order_and_wakes_who_waits
    mail::mail_that_arrives_before_the_park_is_not_slept_over
    mail::mail_is_bounded_and_refused_after_the_end
    journal::a_journal_of_a_newer_format_is_told_as_such_and_blocks_no_other
    lists::lists_are_by_id_state_and_definition_and_paged
    lists::the_oldest_finished_sagas_are_purged_by_number_and_age
    outbox::messages_are_relayed_in_order_and_those_of_one_saga_by_one_node_at_a_time
    outbox::a_relay_that_falls_silent_is_followed_by_another_and_keeps_nothing
    outbox::messages_that_failed_pause_without_holding_those_of_others
    outbox::a_saga_stays_until_its_messages_are_relayed
    outbox::what_a_late_relay_says_of_an_earlier_life_does_not_touch_the_later_one
    journal::text_comes_back_as_it_was
}
