use super::keys::{Keys, Record, value};

/// A key, an empty line, and what it holds: both are read, and written again as they were.
pub fn etcd(data: &[u8]) {
    let at = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let (key, held) = (&data[..at], data.get(at + 2..).unwrap_or_default());
    let keys = Keys::new("gusset");
    if let Some((service, id)) = keys.parse(key) {
        let written = keys.instance(&service, &id);
        assert_eq!(keys.parse(&written), Some((service, id)), "{}", key.escape_ascii());
    }
    if let Some(Record { instance, owner }) = Record::parse(held) {
        let written = value(&instance, &owner).unwrap_or_default();
        let read = Record::parse(&written);
        let again = read.and_then(|read| value(&read.instance, &read.owner).ok());
        assert_eq!(again, Some(written), "{instance:?}");
    }
}
