//! Names from requests, as many as there is room for.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use super::table::Table;

/// Instead of a name that found no room.
pub(crate) const OTHER: &str = "_OTHER";

#[derive(Debug)]
pub(crate) struct Names {
    table: Table<Box<str>>,
    hasher: RandomState,
}

impl Names {
    pub(crate) fn new(max: usize) -> Self {
        Self { table: Table::new(max), hasher: RandomState::default() }
    }

    /// `name`, if it is known or there is room for one more.
    pub(crate) fn admit<'a>(&self, name: &'a str) -> &'a str {
        let hash = self.hasher.hash_one(name);
        let known = self.table.get(hash, |known| **known == *name, || name.into());
        if known.is_some() { name } else { OTHER }
    }

    /// `name`, if it is known.
    pub(crate) fn known<'a>(&self, name: &'a str) -> &'a str {
        let hash = self.hasher.hash_one(name);
        let known = self.table.find(hash, |known| **known == *name);
        if known.is_some() { name } else { OTHER }
    }
}
