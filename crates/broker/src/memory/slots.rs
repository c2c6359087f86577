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
