use super::{address::Address, entry::Entry, service::agent_ids};
use crate::LastSeen;

/// The address of a registry in the first line, and a list of a service as it answers it.
pub fn remote(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (address, list) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    if let Ok(url) = std::str::from_utf8(address) {
        for tls in [false, true] {
            let Ok(read) = Address::parse(url, tls) else { continue };
            assert!(read.port > 0 && !read.host.is_empty() && read.secure == tls, "{url:?}");
            assert_eq!(Address::parse(&read.to_string(), tls).ok(), Some(read), "{url:?}");
        }
    }
    let Ok(ids) = agent_ids(list) else { return };
    let entries: Vec<Entry> = serde_json::from_slice(list).unwrap_or_default();
    let instances = entries
        .into_iter()
        .filter_map(|entry| entry.instance(&"orders".into(), &LastSeen::default()));
    let read: Vec<_> = instances.map(|instance| instance.id).collect();
    assert_eq!(ids.into_iter().map(|(_, id)| id).collect::<Vec<_>>(), read);
}
