//! Where the entries of a queue lie.

use super::entry::Entry;

/// In blocks, so that growing moves nothing and leaves no half of the memory unused. Grows to the greatest number of entries that were held at once.
#[derive(Debug, Default)]
pub(super) struct Slots {
    blocks: Vec<Vec<Option<Entry>>>,
    len: usize,
    free: Vec<u32>,
}

const BLOCK: usize = 256;
/// So many entries of 24 bytes with their messages take the better part of a processor's own cache.
const CACHED: usize = 4_096;

impl Slots {
    pub(super) fn held(&self) -> usize {
        self.len - self.free.len()
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.blocks.get(slot as usize / BLOCK)?.get(slot as usize % BLOCK)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.place(slot)?.as_mut()
    }

    /// Brings them into the cache, all at the same time, where there are so many slots that they may not lie there.
    pub(super) fn warm(&self, slots: impl Iterator<Item = u32>) {
        if self.len > CACHED {
            std::hint::black_box(slots.filter(|slot| self.get(*slot).is_some()).count());
        }
    }

    /// The same with their messages.
    pub(super) fn warm_through(&self, slots: impl Iterator<Item = u32>) {
        if self.len > CACHED {
            let sizes = slots.filter_map(|slot| self.get(slot)).map(Entry::weight);
            std::hint::black_box(sizes.fold(0, |sum: usize, size| sum ^ size));
        }
    }

    /// The caller sees to it that the number of a slot does not overflow.
    #[expect(clippy::cast_possible_truncation, reason = "the capacity of a queue is bounded")]
    pub(super) fn put(&mut self, entry: Entry) -> u32 {
        if let Some(slot) = self.free.pop() {
            if let Some(place) = self.place(slot) {
                *place = Some(entry);
            }
            return slot;
        }
        let slot = self.len;
        self.len += 1;
        match self.blocks.get_mut(slot / BLOCK) {
            Some(block) => block.push(Some(entry)),
            None => self.blocks.push(vec![Some(entry)]),
        }
        slot as u32
    }

    pub(super) fn take(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.place(slot)?.take()?;
        self.free.push(slot);
        Some(entry)
    }

    fn place(&mut self, slot: u32) -> Option<&mut Option<Entry>> {
        self.blocks.get_mut(slot as usize / BLOCK)?.get_mut(slot as usize % BLOCK)
    }
}
