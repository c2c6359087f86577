//! Ranges of IP addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// A range of IP addresses, written `10.0.0.0/8`, `fd00::/8`, or as one address.
///
/// ```
/// use gusset_ratelimit::Network;
///
/// let inside: Network = "10.0.0.0/8".parse()?;
/// assert!(inside.contains("10.1.2.3".parse().unwrap()));
/// assert!(inside.contains("::ffff:10.1.2.3".parse().unwrap()), "as a socket of both families has it");
/// assert!(!inside.contains("11.1.2.3".parse().unwrap()));
///
/// let wrong = "10.0.0.0/33".parse::<Network>().unwrap_err();
/// assert_eq!(wrong.to_string(), "`10.0.0.0/33` is no range of IP addresses: the prefix is longer than 32 bits");
/// # Ok::<(), gusset_ratelimit::MalformedNetwork>(())
/// ```
///
/// Bits behind the prefix are ignored: `10.1.2.3/8` is `10.0.0.0/8`. IPv4 and IPv6 are apart, so `::/0` holds no IPv4 address; a
/// range of IPv4 addresses mapped to IPv6 (`::ffff:10.0.0.0/104`) is the range of those IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    /// Never an IPv4 address mapped to IPv6.
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `address` is in the range. An IPv4 address mapped to IPv6 counts as the IPv4 one.
    #[must_use]
    pub const fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                same_prefix(base.to_bits() as u128, address.to_bits() as u128, self.prefix, 32)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                same_prefix(base.to_bits(), address.to_bits(), self.prefix, 128)
            }
            _ => false,
        }
    }
}

const fn same_prefix(one: u128, other: u128, prefix: u8, width: u8) -> bool {
    let behind = width.saturating_sub(prefix) as u32;
    // A shift by the whole width would overflow; nothing is compared then.
    match (one ^ other).checked_shr(behind) {
        Some(difference) => difference == 0,
        None => true,
    }
}

/// That one address.
impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let base = address.to_canonical();
        Self { base, prefix: width(base) }
    }
}

impl FromStr for Network {
    type Err = MalformedNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = |fault| MalformedNetwork { text: text.into(), fault };
        let (base, prefix) = text.split_once('/').map_or((text, None), |(b, p)| (b, Some(p)));
        let base: IpAddr = base.parse().map_err(|_| malformed(Fault::Address))?;
        let Some(prefix) = prefix else { return Ok(base.into()) };
        // `parse` would take a sign.
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed(Fault::Prefix));
        }
        let wide = width(base);
        let prefix: u8 = prefix.parse().unwrap_or(u8::MAX);
        if prefix > wide {
            return Err(malformed(Fault::TooLong(wide)));
        }
        match (base, base.to_canonical()) {
            (IpAddr::V6(_), mapped @ IpAddr::V4(_)) => {
                // The first 96 bits say that it is mapped.
                let prefix = prefix.checked_sub(96).ok_or_else(|| malformed(Fault::Mapped))?;
                Ok(Self { base: mapped, prefix })
            }
            _ => Ok(Self { base, prefix }),
        }
    }
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// A text that is no range of IP addresses; the message says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedNetwork {
    text: Box<str>,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Address,
    Prefix,
    TooLong(u8),
    Mapped,
}

impl fmt::Display for MalformedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no range of IP addresses: ", self.text)?;
        match self.fault {
            Fault::Address => {
                f.write_str("it does not begin with an address like 10.0.0.0 or fd00::")
            }
            Fault::Prefix => {
                f.write_str("behind the slash belongs a number of bits, as in 10.0.0.0/8")
            }
            Fault::TooLong(width) => write!(f, "the prefix is longer than {width} bits"),
            Fault::Mapped => {
                f.write_str("it holds some mapped IPv4 addresses and not others; write it as IPv4")
            }
        }
    }
}

impl std::error::Error for MalformedNetwork {}

/// The part of an address that stands for one customer: all of an IPv4 address, the first 64 bits of an IPv6 address, because
/// even the smallest customer has a whole /64 to choose addresses from. An IPv4 address mapped to IPv6 is an IPv4 address.
#[must_use]
pub const fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holds(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn the_whole_of_a_family_is_a_range() {
        assert!(holds("0.0.0.0/0", "8.8.8.8"));
        assert!(!holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "2001:db8::1"));
        assert!(!holds("::/0", "8.8.8.8"));
    }

    #[test]
    fn mapped_addresses_and_ranges_are_those_of_ipv4() {
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(holds("::ffff:10.0.0.0/104", "10.1.2.3"));
        assert!(!holds("::ffff:10.0.0.0/104", "11.1.2.3"));
        assert!(holds("::ffff:10.0.0.1", "10.0.0.1"));
        assert_eq!("::ffff:10.0.0.0/104".parse::<Network>().unwrap().to_string(), "10.0.0.0/8");
    }

    #[test]
    fn what_is_no_range_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "begin with an address"),
            ("10.0.0/8", "begin with an address"),
            ("a/8", "begin with an address"),
            (" 10.0.0.0/8", "begin with an address"),
            ("10.0.0.0/", "a number of bits"),
            ("10.0.0.0/-1", "a number of bits"),
            ("10.0.0.0/+8", "a number of bits"),
            ("10.0.0.0/255.0.0.0", "a number of bits"),
            ("10.0.0.0/33", "longer than 32 bits"),
            ("10.0.0.0/999", "longer than 32 bits"),
            ("::/129", "longer than 128 bits"),
            ("::ffff:10.0.0.0/8", "write it as IPv4"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(text), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_range_holds_exactly_the_addresses_with_its_prefix(base: u32, bits in 0u8..=32, other: u32) {
            let network = Network { base: IpAddr::V4(base.into()), prefix: bits };
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            let expected = base & mask == other & mask;
            prop_assert_eq!(network.contains(IpAddr::V4(other.into())), expected);
            let (base, other) = (u128::from(base) << 96, u128::from(other) << 96);
            let network = Network { base: IpAddr::V6(base.into()), prefix: bits };
            prop_assert_eq!(network.contains(IpAddr::V6(other.into())), expected);
        }

        #[test]
        fn what_is_written_is_read_again(base: u128, bits in 0u8..=128) {
            let base = IpAddr::V6(base.into());
            prop_assume!(base.to_canonical().is_ipv6());
            let network = Network { base, prefix: bits };
            prop_assert_eq!(network.to_string().parse(), Ok(network));
        }
    }
}
