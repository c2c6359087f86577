//! Messages in process: topics, groups, redelivery, dead letters.
