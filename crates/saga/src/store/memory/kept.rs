//! The records of one saga, in few bytes.
//!
//! Ten thousand sagas that are finished lie in memory, and each new one pushes out the oldest. What that costs is the fetching of memory that no cache has any
//! more, so a usual saga has no piece of memory for its records beside the one that holds all of it.

use std::sync::Arc;

use crate::{Event, Json, Places, Record, Shape, Unreadable};

#[derive(Default)]
pub(super) struct Kept {
    /// When the first one was written. The others say how much later.
    since: u64,
    /// What the first one says that the saga runs.
    shape: Option<Arc<Shape>>,
    bytes: Bytes,
    /// What is not written out in bytes, in order.
    aside: Option<Box<Aside>>,
}

#[derive(Default)]
struct Aside {
    records: Vec<Record>,
    /// Values whose text is long, and shared with those who made them.
    values: Vec<Json>,
}

/// What a record begins with.
const ASIDE: u8 = 0;
const STARTED: u8 = 1;
const DONE: u8 = 2;

/// In place of the length of a value.
const LONG: u8 = u8::MAX;

impl Kept {
    pub(super) fn of(records: &[Record]) -> Self {
        let since = records.first().map_or(0, |record| record.at);
        let mut kept = Self { since, ..Self::default() };
        kept.extend(records, 0);
        kept
    }

    /// Adds records behind the `next` that there are.
    pub(super) fn extend(&mut self, records: &[Record], next: u64) {
        for (record, sequence) in records.iter().zip(next..) {
            if (record.format, record.sequence) == (Record::FORMAT, sequence) {
                self.push(record);
            } else {
                self.put_aside(record);
            }
        }
    }

    fn push(&mut self, record: &Record) {
        let mut line = Line::default();
        let value = match &record.event {
            Event::Done { step, output } => {
                line.head(DONE, record, self.since);
                line.number((*step).into());
                output
            }
            Event::Started { shape, input, trace, trace_state: None, life }
                if self.shape.is_none() =>
            {
                self.shape = Some(shape.clone());
                line.head(STARTED, record, self.since);
                line.number(*life);
                let trace = trace.as_deref().unwrap_or_default();
                line.number(trace.len() as u64);
                line.extend(trace.as_bytes());
                input
            }
            _ => return self.put_aside(record),
        };
        let short = value.short();
        line.byte(short.map_or(LONG, |text| text.len() as u8));
        line.extend(short.unwrap_or_default());
        if line.full {
            return self.put_aside(record);
        }
        self.bytes.extend(line.get());
        if short.is_none() {
            self.aside.get_or_insert_default().values.push(value.clone());
        }
    }

    fn put_aside(&mut self, record: &Record) {
        self.bytes.extend(&[ASIDE]);
        self.aside.get_or_insert_default().records.push(record.clone());
    }

    /// All of them, as they were.
    pub(super) fn records(&self) -> Result<Vec<Record>, Unreadable> {
        let none = Aside::default();
        let aside = self.aside.as_deref().unwrap_or(&none);
        let mut reader = Reader {
            kept: self,
            rest: self.bytes.get(),
            records: aside.records.iter(),
            values: aside.values.iter(),
        };
        let mut records = Vec::new();
        while !reader.rest.is_empty() {
            let record = reader.record(records.len() as u64);
            records.push(record.ok_or_else(|| Unreadable::Damaged("it ends too soon".into()))??);
        }
        Ok(records)
    }
}

struct Reader<'a> {
    kept: &'a Kept,
    rest: &'a [u8],
    records: std::slice::Iter<'a, Record>,
    values: std::slice::Iter<'a, Json>,
}

impl Reader<'_> {
    fn record(&mut self, sequence: u64) -> Option<Result<Record, Unreadable>> {
        let kind = self.byte()?;
        if kind == ASIDE {
            return Some(self.records.next()?.readable());
        }
        let (epoch, at) = (self.number()?, self.number()?.wrapping_add(self.kept.since));
        let opens: Option<Vec<u32>> = (0..self.number()?).map(|_| self.place()).collect();
        let opens = Places::from(&*opens?);
        let event = if kind == DONE {
            Event::Done { step: self.place()?, output: self.value()? }
        } else {
            let (shape, life) = (self.kept.shape.clone()?, self.number()?);
            let length = usize::try_from(self.number()?).ok()?;
            let trace = std::str::from_utf8(self.bytes(length)?).ok()?;
            let trace = (!trace.is_empty()).then(|| trace.into());
            Event::Started { shape, input: self.value()?, trace, trace_state: None, life }
        };
        Some(Ok(Record { opens, ..Record::new(sequence, epoch, at, event) }))
    }

    fn bytes(&mut self, length: usize) -> Option<&[u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    fn place(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn value(&mut self) -> Option<Json> {
        match self.byte()? {
            LONG => self.values.next().cloned(),
            length => Json::of_short(self.bytes(length.into())?),
        }
    }
}

/// Bytes that need no piece of memory of their own as long as they are few.
enum Bytes {
    Few { length: u8, bytes: [u8; Bytes::FEW] },
    Many(Vec<u8>),
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Few { length: 0, bytes: [0; Self::FEW] }
    }
}

impl Bytes {
    /// What a saga of some six steps takes.
    const FEW: usize = 94;

    fn get(&self) -> &[u8] {
        match self {
            Self::Few { length, bytes } => &bytes[..usize::from(*length)],
            Self::Many(bytes) => bytes,
        }
    }

    fn extend(&mut self, more: &[u8]) {
        match self {
            Self::Few { length, bytes } => {
                let from = usize::from(*length);
                if let Some(room) = bytes.get_mut(from..from + more.len()) {
                    room.copy_from_slice(more);
                    *length += more.len() as u8;
                } else {
                    *self = Self::Many([self.get(), more].concat());
                }
            }
            Self::Many(bytes) => bytes.extend_from_slice(more),
        }
    }
}

/// One record in bytes, as long as there is room.
struct Line {
    length: usize,
    bytes: [u8; Line::ROOM],
    full: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self { length: 0, bytes: [0; Self::ROOM], full: false }
    }
}

impl Line {
    const ROOM: usize = 128;

    fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn head(&mut self, kind: u8, record: &Record, since: u64) {
        self.byte(kind);
        self.number(record.epoch);
        // A clock may be set: what is earlier is very much later, around the end of the numbers.
        self.number(record.at.wrapping_sub(since));
        self.number(record.opens.len() as u64);
        for step in &*record.opens {
            self.number((*step).into());
        }
    }

    fn byte(&mut self, byte: u8) {
        match self.bytes.get_mut(self.length) {
            Some(room) => {
                *room = byte;
                self.length += 1;
            }
            None => self.full = true,
        }
    }

    fn extend(&mut self, more: &[u8]) {
        match self.bytes.get_mut(self.length..self.length + more.len()) {
            Some(room) => {
                room.copy_from_slice(more);
                self.length += more.len();
            }
            None => self.full = true,
        }
    }

    /// Seven bits in each byte, the lowest first, and a bit that says whether there are more.
    fn number(&mut self, number: u64) {
        let mut left = number;
        while left >= 0x80 {
            self.byte(left as u8 | 0x80);
            left >>= 7;
        }
        self.byte(left as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failure, FailureKind};
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Json> {
        "[ -~]{0,40}".prop_map(|text| Json::encode(&text).unwrap())
    }

    fn event() -> impl Strategy<Value = Event> {
        let failure = Failure::of_the_saga(FailureKind::Ordered, "no".into());
        prop_oneof![
            (any::<u32>(), value()).prop_map(|(step, output)| Event::Done { step, output }),
            (value(), any::<bool>(), prop_oneof![Just(7), any::<u64>()]).prop_map(
                |(input, traced, life)| {
                    let (name, version) = ("x".into(), 1);
                    let shape =
                        Arc::new(Shape { name, version, deadline: None, steps: Vec::new() });
                    let trace = traced.then(|| "00-ab-cd-01".into());
                    let trace_state = (life == 7 && traced).then(|| "a=b".into());
                    Event::Started { shape, input, trace, trace_state, life }
                }
            ),
            any::<u32>().prop_map(|step| Event::Undone { step }),
            any::<bool>().prop_map(move |maybe| Event::Failed {
                step: 1,
                failure: failure.clone(),
                maybe
            }),
        ]
    }

    prop_compose! {
        fn record()(
            event in event(), epoch: u64, at: u64, late in 0..100_u64, odd in 0..20_u64,
            opens in prop_oneof![
                9 => proptest::collection::vec(any::<u32>(), 0..12),
                1 => proptest::collection::vec(any::<u32>(), 20..60),
            ],
        ) -> (Record, bool) {
            let at = if odd == 1 { at } else { 1_790_000_000_000 + late };
            let record = Record::new(0, epoch % 3_000, at, event);
            (Record { opens: (&*opens).into(), ..record }, odd == 0)
        }
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_were_written(
            written in proptest::collection::vec(record(), 0..12), split in 0..12_usize,
        ) {
            let number = |((mut record, odd), place): ((Record, bool), u64)| {
                record.sequence = place + u64::from(odd);
                record
            };
            let written: Vec<_> = written.into_iter().zip(0..).map(number).collect();
            let (first, then) = written.split_at(split.min(written.len()));
            let mut kept = Kept::of(first);
            for (record, next) in then.iter().zip(first.len() as u64..) {
                kept.extend(std::slice::from_ref(record), next);
            }
            prop_assert_eq!(kept.records(), Ok(written));
        }
    }

    #[test]
    fn a_record_of_a_later_release_is_none_that_can_be_read() {
        let mut later = Record::new(0, 1, 0, Event::Done { step: 1, output: Json::null() });
        later.format = 9;
        assert_eq!(Kept::of(&[later]).records(), Err(Unreadable::Newer(9)));
    }
}
