use std::{
    cell::RefCell,
    fmt,
    num::{NonZeroU64, NonZeroU128},
    str::FromStr,
};

use rand::{RngExt, rngs::SmallRng};

thread_local! {
    /// Identifiers have to differ, not to be secret: a quarter of the price of a secure generator, with a state that is large enough for
    /// threads and processes never to meet.
    static IDS: RefCell<SmallRng> = RefCell::new(rand::make_rng());
}

fn random() -> u64 {
    IDS.try_with(|ids| ids.borrow_mut().random()).unwrap_or_else(|_| rand::rng().random())
}

/// Identifier of a whole trace: 16 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// The identifier with this value.
    #[must_use]
    pub const fn new(id: NonZeroU128) -> Self {
        Self(id)
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0.get()
    }
}

/// Identifier of one span: 8 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(NonZeroU64);

impl SpanId {
    /// The identifier with this value.
    #[must_use]
    pub const fn new(id: NonZeroU64) -> Self {
        Self(id)
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    fn random() -> Self {
        loop {
            if let Some(id) = NonZeroU64::new(random()) {
                return Self(id);
            }
        }
    }
}

macro_rules! hex_display {
    ($($name:ident: $width:literal),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; $width];
                write_hex(&self.0.get().to_be_bytes(), &mut text);
                f.pad(as_text(&text))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

hex_display!(TraceId: 32, SpanId: 16);

const fn pairs() -> [[u8; 2]; 256] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
}

/// The two digits of each byte.
static PAIRS: [[u8; 2]; 256] = pairs();

/// Two digits for each byte.
fn write_hex(bytes: &[u8], to: &mut [u8]) {
    for (pair, byte) in to.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&PAIRS[usize::from(*byte)]);
    }
}

fn as_text(digits: &[u8]) -> &str {
    // They are ASCII, and an empty text is the worst that could come of it.
    std::str::from_utf8(digits).unwrap_or_default()
}

impl FromStr for TraceId {
    type Err = MalformedId;

    /// 32 hexadecimal digits in lower case, as they are displayed.
    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let id = long_hex(text.as_bytes()).and_then(NonZeroU128::new);
        id.map(Self).ok_or(MalformedId { digits: 32 })
    }
}

impl FromStr for SpanId {
    type Err = MalformedId;

    /// 16 hexadecimal digits in lower case, as they are displayed.
    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let id = hex::<16>(text.as_bytes()).and_then(NonZeroU64::new);
        id.map(Self).ok_or(MalformedId { digits: 16 })
    }
}

#[cfg(feature = "serde")]
macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        /// As text, as it is displayed.
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

#[cfg(feature = "serde")]
serde_as_text!(TraceId, SpanId, TraceContext);

/// The span that a piece of work belongs to, as W3C Trace Context defines it.
///
/// ```
/// use gusset_call::TraceContext;
///
/// let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let caller: TraceContext = header.parse()?;
/// assert!(caller.is_sampled());
///
/// let mine = caller.child();
/// assert_eq!(mine.trace_id(), caller.trace_id());
/// assert_ne!(mine.span_id(), caller.span_id());
/// # Ok::<(), gusset_call::MalformedTraceparent>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: TraceId,
    span_id: SpanId,
    flags: u8,
}

impl TraceContext {
    const SAMPLED: u8 = 0x01;
    /// Set by whoever made the trace id at random (W3C Trace Context, level 2).
    const RANDOM: u8 = 0x02;

    /// The span with these identifiers, for who read them elsewhere than in a `traceparent`.
    #[must_use]
    pub const fn new(trace_id: TraceId, span_id: SpanId, sampled: bool) -> Self {
        Self { trace_id, span_id, flags: 0 }.with_sampled(sampled)
    }

    /// A new trace with a random identifier, sampled.
    #[must_use]
    pub fn new_root() -> Self {
        loop {
            if let Some(id) = NonZeroU128::new(u128::from(random()) << 64 | u128::from(random())) {
                let flags = Self::SAMPLED | Self::RANDOM;
                return Self { trace_id: TraceId(id), span_id: SpanId::random(), flags };
            }
        }
    }

    /// A new span in the same trace, with the same flags.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span_id: SpanId::random(), ..*self }
    }

    /// The same span, sampled or not.
    #[must_use]
    pub const fn with_sampled(mut self, sampled: bool) -> Self {
        self.flags = if sampled { self.flags | Self::SAMPLED } else { self.flags & !Self::SAMPLED };
        self
    }

    /// The trace.
    #[must_use]
    pub const fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// The span.
    #[must_use]
    pub const fn span_id(&self) -> SpanId {
        self.span_id
    }

    /// The `traceparent` header of version 00, as the bytes of its text; for who has no use for a `String`.
    #[must_use]
    pub fn to_header(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&self.trace_id.get().to_be_bytes(), &mut text[3..35]);
        write_hex(&self.span_id.get().to_be_bytes(), &mut text[36..52]);
        write_hex(&[self.flags], &mut text[53..]);
        text
    }

    /// Reads a `traceparent` header as [`FromStr`] does, from bytes that need not be text.
    ///
    /// # Errors
    ///
    /// If it is not one.
    pub fn from_header(header: &[u8]) -> Result<Self, MalformedTraceparent> {
        parse(header).ok_or(MalformedTraceparent)
    }

    /// Whether the caller may have recorded this trace.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & Self::SAMPLED != 0
    }
}

/// The `traceparent` header of version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(as_text(&self.to_header()))
    }
}

impl FromStr for TraceContext {
    type Err = MalformedTraceparent;

    /// Parses a `traceparent` header. A version above 00 may carry more fields behind the known ones, and only its
    /// known flags are kept, as the specification demands.
    fn from_str(header: &str) -> Result<Self, Self::Err> {
        Self::from_header(header.as_bytes())
    }
}

fn parse(header: &[u8]) -> Option<TraceContext> {
    const LENGTH: usize = 55;
    let (known, more) = header.split_at_checked(LENGTH)?;
    if known[2] != b'-' || known[35] != b'-' || known[52] != b'-' {
        return None;
    }
    let version = hex::<2>(&known[0..2])?;
    let well_ended = match version {
        0x00 => more.is_empty(),
        0xff => false,
        _ => more.is_empty() || more[0] == b'-',
    };
    if !well_ended {
        return None;
    }
    let trace_id = NonZeroU128::new(long_hex(&known[3..35])?)?;
    let span_id = NonZeroU64::new(hex::<16>(&known[36..52])?)?;
    let flags = u8::try_from(hex::<2>(&known[53..55])?).ok()?;
    Some(TraceContext {
        trace_id: TraceId(trace_id),
        span_id: SpanId(span_id),
        flags: flags & (TraceContext::SAMPLED | TraceContext::RANDOM),
    })
}

/// What each byte is as a digit; 16 and more where it is none. Lower case only: the specification forbids upper case.
static NIBBLES: [u8; 256] = {
    let mut nibbles = [0xff; 256];
    let mut digit = 0;
    while digit < 16 {
        nibbles[b"0123456789abcdef"[digit as usize] as usize] = digit;
        digit += 1;
    }
    nibbles
};

/// At most 16 digits. All are looked at before any is judged, which is quicker than to stop at the first bad one.
fn hex<const DIGITS: usize>(digits: &[u8]) -> Option<u64> {
    let digits: &[u8; DIGITS] = digits.try_into().ok()?;
    let (mut value, mut seen) = (0, 0);
    for digit in digits {
        let nibble = NIBBLES[usize::from(*digit)];
        seen |= nibble;
        value = value << 4 | u64::from(nibble & 15);
    }
    (seen < 16).then_some(value)
}

/// 32 digits.
fn long_hex(digits: &[u8]) -> Option<u128> {
    let (high, low) = digits.split_at_checked(16)?;
    Some(u128::from(hex::<16>(high)?) << 64 | u128::from(hex::<16>(low)?))
}

/// A `traceparent` header that does not follow W3C Trace Context; the receiver starts a new trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedTraceparent;

impl fmt::Display for MalformedTraceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("traceparent is not of the form 00-<32 hex>-<16 hex>-<2 hex> in lower case")
    }
}

impl std::error::Error for MalformedTraceparent {}

/// A text that is no [`TraceId`] or [`SpanId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedId {
    digits: u8,
}

impl fmt::Display for MalformedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {} hexadecimal digits in lower case, or nothing but zeros", self.digits)
    }
}

impl std::error::Error for MalformedId {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_header_comes_back_letter_by_letter() {
        assert_eq!(GOOD.parse::<TraceContext>().unwrap().to_string(), GOOD);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = format!("cc{}-what-the-future-brings", &GOOD[2..]);
        assert_eq!(later.parse::<TraceContext>().unwrap().to_string(), GOOD);
        let flags = format!("{}09", &GOOD[..53]);
        assert_eq!(flags.parse::<TraceContext>().unwrap().to_string(), GOOD);
    }

    #[test]
    fn malformed_headers_are_refused() {
        let zero_trace = format!("00-{}{}", "0".repeat(32), &GOOD[35..]);
        let zero_span = format!("{}-{}-01", &GOOD[..35], "0".repeat(16));
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &GOOD.to_uppercase(),
            &format!("{GOOD}-more"),
            &format!("ff{}", &GOOD[2..]),
            &format!("cc{}.more", &GOOD[2..]),
            &GOOD.replace('-', "_"),
            &zero_trace,
            &zero_span,
        ] {
            assert_eq!(bad.parse::<TraceContext>(), Err(MalformedTraceparent), "{bad}");
        }
    }

    #[test]
    fn identifiers_are_read_as_they_are_shown() {
        let cx: TraceContext = GOOD.parse().unwrap();
        assert_eq!(GOOD[3..35].parse(), Ok(cx.trace_id()));
        assert_eq!(GOOD[36..52].parse(), Ok(cx.span_id()));
        let zeros = "0".repeat(32);
        for bad in ["", &GOOD[3..34], &GOOD[3..36], &GOOD[3..35].to_uppercase(), &zeros] {
            let error = bad.parse::<TraceId>().unwrap_err();
            assert!(error.to_string().starts_with("not 32 hex"), "{bad}");
        }
        for bad in ["", &GOOD[36..51], &GOOD[3..35], "00F067AA0BA902B7", &zeros[..16]] {
            assert!(bad.parse::<SpanId>().is_err(), "{bad}");
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn identifiers_are_text_to_serde() {
        let cx: TraceContext = GOOD.parse().unwrap();
        let text = serde_json::to_string(&(cx, cx.trace_id(), cx.span_id())).unwrap();
        assert_eq!(text, format!("[{GOOD:?},{:?},{:?}]", &GOOD[3..35], &GOOD[36..52]));
        let read: (TraceContext, TraceId, SpanId) = serde_json::from_str(&text).unwrap();
        assert_eq!(read, (cx, cx.trace_id(), cx.span_id()));
        // Also where the text has to be unescaped first.
        let escaped = text.replacen('4', "\\u0034", 1);
        assert_eq!(
            serde_json::from_str::<(TraceContext, TraceId, SpanId)>(&escaped).unwrap(),
            read
        );
        assert!(serde_json::from_str::<TraceId>("\"4711\"").is_err());
    }

    #[test]
    fn identifiers_keep_their_zeros_and_obey_a_width() {
        let cx = GOOD.parse::<TraceContext>().unwrap();
        assert_eq!(cx.span_id().to_string(), "00f067aa0ba902b7");
        assert_eq!(
            format!("{:>18}|{:?}", cx.span_id(), cx.trace_id()),
            format!("  00f067aa0ba902b7|{}", &GOOD[3..35])
        );
        assert_eq!(TraceContext::from_header(&cx.to_header()), Ok(cx));
    }

    #[test]
    fn identifiers_differ_between_calls_and_threads() {
        let ids = || (0..1_000).map(|_| TraceContext::new_root().trace_id()).collect::<Vec<_>>();
        let mut all = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ids)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4_000);
    }

    proptest! {
        #[test]
        fn no_input_panics(header in ".{0,80}") {
            let _ = header.parse::<TraceContext>();
        }

        #[test]
        fn what_is_written_can_be_read(trace in 1u128.., span in 1u64.., sampled: bool) {
            let cx = TraceContext {
                trace_id: TraceId(NonZeroU128::new(trace).unwrap()),
                span_id: SpanId(NonZeroU64::new(span).unwrap()),
                flags: 0,
            }
            .with_sampled(sampled);
            prop_assert_eq!(cx.to_string().parse(), Ok(cx));
        }
    }
}
