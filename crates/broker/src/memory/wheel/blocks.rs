//! Lists of numbers in blocks, so that who goes through one waits for memory once in a block and not once in a number.

/// Where one was taken out, and no block.
const NONE: u32 = u32::MAX;
/// So that a block is two lines of a cache.
const SPAN: usize = 28;

/// All blocks of a wheel. In each that is in a list there is a number at least, so there are no more blocks than numbers. Grows to the greatest
/// number of blocks that were needed at once.
#[derive(Debug)]
pub(super) struct Blocks {
    blocks: Vec<Block>,
    /// The first of those that are in no list.
    free: u32,
}

/// The first block and the last, if there are any.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    numbers: [u32; SPAN],
    before: u32,
    after: u32,
    /// Places that were used, from the first on.
    len: u16,
    /// Of these, the ones that still are.
    full: u16,
}

/// Where a number lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    block: u32,
    place: u8,
}

impl List {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE };

    pub(super) const fn is_empty(self) -> bool {
        self.first == NONE
    }
}

impl Spot {
    pub(super) const NOWHERE: Self = Self { block: NONE, place: 0 };
}

impl Block {
    const EMPTY: Self = Self { numbers: [NONE; SPAN], before: NONE, after: NONE, len: 0, full: 0 };

    /// In the order of their coming.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.numbers.iter().take(self.len.into()).copied().filter(|number| *number != NONE)
    }
}

impl Blocks {
    pub(super) const fn new() -> Self {
        Self { blocks: Vec::new(), free: NONE }
    }

    /// To the end of the list.
    #[expect(clippy::cast_possible_truncation, reason = "less than the length of a block")]
    pub(super) fn push(&mut self, list: &mut List, number: u32) -> Spot {
        if list.is_empty() || usize::from(self.at(list.last).len) == SPAN {
            self.append(list);
        }
        let block = self.at(list.last);
        let place = block.len as u8;
        block.numbers[usize::from(place)] = number;
        block.len += 1;
        block.full += 1;
        Spot { block: list.last, place }
    }

    /// Takes out what lies there in this list.
    pub(super) fn remove(&mut self, list: &mut List, spot: Spot) {
        let block = self.at(spot.block);
        block.numbers[usize::from(spot.place)] = NONE;
        block.full -= 1;
        if block.full == 0 {
            self.cut(list, spot.block);
        }
    }

    /// Takes out the first block.
    pub(super) fn pop(&mut self, list: &mut List) -> Option<Block> {
        if list.is_empty() {
            return None;
        }
        let block = *self.at(list.first);
        self.cut(list, list.first);
        Some(block)
    }

    /// What is in the list, in the order of coming.
    pub(super) fn numbers(&self, list: List) -> impl Iterator<Item = u32> + '_ {
        let block = |number: u32| self.blocks.get(number as usize);
        let blocks = std::iter::successors(block(list.first), move |last| block(last.after));
        blocks.flat_map(Block::numbers)
    }

    fn at(&mut self, block: u32) -> &mut Block {
        &mut self.blocks[block as usize]
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "there are fewer than slots, which have 32 bits"
    )]
    fn append(&mut self, list: &mut List) {
        let last = list.last;
        let fresh = Block { before: last, ..Block::EMPTY };
        let block = if self.free == NONE {
            self.blocks.push(fresh);
            (self.blocks.len() - 1) as u32
        } else {
            let block = self.free;
            self.free = std::mem::replace(self.at(block), fresh).after;
            block
        };
        match last {
            NONE => list.first = block,
            last => self.at(last).after = block,
        }
        list.last = block;
    }

    fn cut(&mut self, list: &mut List, block: u32) {
        let free = self.free;
        let Block { before, after, .. } = *self.at(block);
        match before {
            NONE => list.first = after,
            before => self.at(before).after = after,
        }
        match after {
            NONE => list.last = before,
            after => self.at(after).before = before,
        }
        self.at(block).after = free;
        self.free = block;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }
}
