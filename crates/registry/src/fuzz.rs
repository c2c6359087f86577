//! Parts that read what strangers send, each as a function of bytes that checks what must hold for all of them.
//!
//! The workspace's folder `fuzz` calls them for as long as somebody likes; a test here calls them with the same corpus and with seeded changes of it.

#[cfg(feature = "consul")]
pub use crate::consul::fuzz::{filter, server};
#[cfg(feature = "etcd")]
pub use crate::etcd::fuzz::etcd;
#[cfg(feature = "remote")]
pub use crate::remote::fuzz::remote;
#[cfg(all(feature = "consul", feature = "file"))]
pub use crate::{consul::fuzz::kept, memory::fuzz::snapshot};

#[cfg(all(test, feature = "consul", feature = "etcd", feature = "file", feature = "remote"))]
mod tests {
    use gusset_engines::holds;

    #[test]
    fn no_request_is_answered_by_what_is_no_json_or_leads_beyond_a_bound() {
        holds("server", super::server);
    }

    #[test]
    fn a_filter_holds_or_its_opposite_does() {
        holds("filter", super::filter);
    }

    #[test]
    fn what_a_crash_left_of_a_log_is_read_as_it_was_written_or_refused() {
        holds("kept", super::kept);
    }

    #[test]
    fn what_a_snapshot_says_of_instances_is_bounded_and_well_formed() {
        holds("snapshot", super::snapshot);
    }

    #[test]
    fn what_lies_in_etcd_is_an_instance_that_is_written_again_as_it_was_or_none() {
        holds("etcd", super::etcd);
    }

    #[test]
    fn what_a_registry_lists_becomes_instances_or_nothing() {
        holds("remote", super::remote);
    }
}
