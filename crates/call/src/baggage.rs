use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use crate::ambient::Beside;

/// What the specification asks everybody to pass on; what is more is left out here.
const MAX_MEMBERS: usize = 64;
/// Likewise.
const MAX_BYTES: usize = 8_192;

/// W3C `baggage`: names and values that go along with a call to whomever it calls, such as a tenant. Clones share one text.
///
/// It is passed on to every service that is called, and anybody before this one may have written it: put no secret there, and trust
/// nothing that is in it.
///
/// ```
/// use gusset_call::Baggage;
///
/// let baggage: Baggage = "tenant=acme%20inc,plan=pro;source=billing".parse()?;
/// assert_eq!(baggage.get("tenant").as_deref(), Some("acme inc"));
///
/// let more = baggage.with("plan", "basic")?;
/// Baggage::sync_scope(Some(more), || {
///     let current = Baggage::current().unwrap();
///     assert_eq!(current.as_str(), "tenant=acme%20inc,plan=basic");
/// });
/// # Ok::<(), gusset_call::MalformedBaggage>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Baggage(Arc<str>);

impl Baggage {
    /// That of the call that this task works for.
    #[must_use]
    pub fn current() -> Option<Self> {
        Beside::current(|beside| beside.baggage.clone())
    }

    /// Runs `f` with `baggage`, or with none, as what is current. For a future: around each poll, or
    /// [`Ambient::scope`](crate::Ambient::scope).
    pub fn sync_scope<R>(baggage: Option<Self>, f: impl FnOnce() -> R) -> R {
        Beside::scope(|beside| beside.baggage = baggage, f)
    }

    /// One member.
    ///
    /// # Errors
    ///
    /// If the name is no token as HTTP defines it, or the whole is longer than 8,192 bytes.
    pub fn new(name: &str, value: &str) -> Result<Self, MalformedBaggage> {
        let mut text = String::new();
        push(&mut text, name, value)?;
        Self::checked(text)
    }

    /// The same with this member, in place of those of its name. Values are any text; they are escaped.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), and if there are 64 other members.
    pub fn with(&self, name: &str, value: &str) -> Result<Self, MalformedBaggage> {
        let mut text = String::with_capacity(self.0.len() + name.len() + value.len() + 2);
        let others = members(&self.0).filter(|member| member.name != name);
        for (count, other) in others.enumerate() {
            if count + 1 == MAX_MEMBERS {
                return Err(MalformedBaggage);
            }
            text.push_str(other.text);
            text.push(',');
        }
        push(&mut text, name, value)?;
        Self::checked(text)
    }

    fn checked(text: String) -> Result<Self, MalformedBaggage> {
        if text.len() > MAX_BYTES { Err(MalformedBaggage) } else { Ok(Self(text.into())) }
    }

    /// The value of a name; the last, should it be there more than once. What is no UTF-8 in it is replaced by U+FFFD.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        members(&self.0).filter(|member| member.name == name).last().map(|it| unescaped(it.value))
    }

    /// Names and values in their order. What members say of themselves (`;name=value`) is passed on and not shown.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        members(&self.0).map(|member| (member.name, unescaped(member.value)))
    }

    /// As it goes out in a header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Baggage {
    type Err = MalformedBaggage;

    /// Keeps the members that are well formed, the first 64 of them and as many as have room in 8,192 bytes.
    fn from_str(header: &str) -> Result<Self, MalformedBaggage> {
        let mut text = String::new();
        for member in members(header).take(MAX_MEMBERS) {
            let comma = usize::from(!text.is_empty());
            if text.len() + comma + member.text.len() > MAX_BYTES {
                break;
            }
            if comma == 1 {
                text.push(',');
            }
            text.push_str(member.text);
        }
        if text.is_empty() { Err(MalformedBaggage) } else { Ok(Self(text.into())) }
    }
}

/// There is no well-formed member in it, or it is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedBaggage;

impl fmt::Display for MalformedBaggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed baggage, or too much of it")
    }
}

impl std::error::Error for MalformedBaggage {}

struct Member<'a> {
    /// All of it, with what it says of itself.
    text: &'a str,
    name: &'a str,
    value: &'a str,
}

fn members(text: &str) -> impl Iterator<Item = Member<'_>> {
    text.split(',').filter_map(|member| {
        let text = member.trim_matches([' ', '\t']);
        let mut parts = text.split(';').map(|part| part.trim_matches([' ', '\t']));
        let (name, value) = pair(parts.next()?);
        let value = value.filter(|_| is_name(name))?;
        let well_formed = is_value(value)
            && parts.map(pair).all(|(name, value)| is_name(name) && value.is_none_or(is_value));
        well_formed.then_some(Member { text, name, value })
    })
}

fn pair(text: &str) -> (&str, Option<&str>) {
    match text.split_once('=') {
        Some((name, value)) => {
            (name.trim_end_matches([' ', '\t']), Some(value.trim_start_matches([' ', '\t'])))
        }
        None => (text, None),
    }
}

/// A token of RFC 9110.
fn is_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}

fn is_value(value: &str) -> bool {
    value.bytes().all(is_plain)
}

fn push(text: &mut String, name: &str, value: &str) -> Result<(), MalformedBaggage> {
    if !is_name(name) {
        return Err(MalformedBaggage);
    }
    text.push_str(name);
    text.push('=');
    for byte in value.bytes() {
        if is_plain(byte) && byte != b'%' {
            text.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            text.push('%');
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    Ok(())
}

/// A `%` without two digits behind it stands for itself.
fn unescaped(value: &str) -> Cow<'_, str> {
    if !value.contains('%') {
        return Cow::Borrowed(value);
    }
    let mut rest = value.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        rest = tail;
        match (*first == b'%').then(|| Some((digit(0)?, digit(1)?))).flatten() {
            Some((high, low)) => {
                // Two digits are at most 255.
                bytes.push(u8::try_from(high << 4 | low).unwrap_or_default());
                rest = &tail[2..];
            }
            None => bytes.push(*first),
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) => Cow::Owned(text),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<Vec<(String, String)>> {
        let baggage: Baggage = text.parse().ok()?;
        Some(baggage.iter().map(|(name, value)| (name.into(), value.into_owned())).collect())
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Option<Vec<(String, String)>> {
        Some(pairs.map(|(name, value)| (name.into(), value.into())).into())
    }

    #[test]
    fn members_are_read_with_white_space_properties_and_escapes() {
        assert_eq!(read("a=1 , b = 2 ;p; q = 3 ,c="), pairs([("a", "1"), ("b", "2"), ("c", "")]));
        assert_eq!(
            read("k=%C3%A9%20x,l=100%,m=%zz,n=a=b"),
            pairs([("k", "é x"), ("l", "100%"), ("m", "%zz"), ("n", "a=b")])
        );
        assert_eq!(read("k=%FF"), pairs([("k", "\u{fffd}")]));
    }

    #[test]
    fn a_member_that_is_malformed_is_left_out_and_the_others_stay() {
        for bad in
            ["a", "=1", "a b=1", "a=\"x\"", "a=x y", "é=1", "a=é", "a=1;=2", "a=1;b=\\", "a=\n1"]
        {
            assert_eq!(read(bad), None, "{bad}");
            assert_eq!(read(&format!("x=1,{bad},y=2")), pairs([("x", "1"), ("y", "2")]), "{bad}");
        }
        assert_eq!(read(""), None);
    }

    #[test]
    fn what_is_too_much_is_left_out_at_the_end() {
        let many: String = (0..100).map(|n| format!("k{n}=v,")).collect();
        assert_eq!(read(&many).unwrap().len(), 64);
        let long = format!("a=1,b={},c=3", "x".repeat(8_187));
        assert_eq!(long.parse::<Baggage>().unwrap().as_str(), "a=1");
        let fits = format!("a=1,b={}", "x".repeat(8_186));
        assert_eq!(fits.parse::<Baggage>().unwrap().as_str(), fits);
    }

    #[test]
    fn a_member_is_added_once_and_within_the_limits() {
        let baggage = Baggage::new("a", "1").unwrap().with("b", "2").unwrap();
        assert_eq!(baggage.with("a", "ü,;").unwrap().as_str(), "b=2,a=%C3%BC%2C%3B");
        assert_eq!(Baggage::new("a b", "1"), Err(MalformedBaggage));
        assert_eq!(Baggage::new("a", &"x".repeat(8_191)), Err(MalformedBaggage));
        let full: String = (0..64).map(|n| format!("k{n}=v,")).collect();
        let full: Baggage = full.parse().unwrap();
        assert_eq!(full.with("one-more", "v"), Err(MalformedBaggage));
        assert!(full.with("k7", "w").is_ok());
        let twice: Baggage = "a=1,a=2".parse().unwrap();
        assert_eq!(twice.get("a").as_deref(), Some("2"));
        assert_eq!(twice.with("a", "3").unwrap().as_str(), "a=3");
    }

    proptest! {
        #[test]
        fn any_value_comes_back_as_it_was(value in "\\PC{0,200}") {
            let baggage = Baggage::new("k", &value).unwrap();
            let sent: Baggage = baggage.as_str().parse().unwrap();
            prop_assert_eq!(sent.get("k").unwrap(), value);
        }

        #[test]
        fn whatever_comes_in_goes_out_well_formed_and_bounded(text in "[ -~,;=%\\PC]{0,300}") {
            if let Ok(baggage) = text.parse::<Baggage>() {
                prop_assert_eq!(baggage.as_str().parse::<Baggage>(), Ok(baggage.clone()));
                prop_assert!(baggage.as_str().bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')));
            }
        }
    }
}
