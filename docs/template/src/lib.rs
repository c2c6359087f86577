//! A list of items, as a service: the rooms that most services have, and nothing else.

pub mod handler;
pub mod repository;
pub mod service;
pub mod settings;
