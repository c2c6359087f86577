use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many connections each client has. No more entries than connections.
#[derive(Debug)]
pub(super) struct Clients {
    most: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One of a client's places; given back when it is dropped.
#[derive(Debug)]
pub(super) struct OfClient {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// `None` without a limit.
    pub(super) fn new(most: usize) -> Option<Arc<Self>> {
        (most < usize::MAX).then(|| Arc::new(Self { most, counts: Mutex::default() }))
    }

    /// `None` if the client has all that it may have.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<OfClient> {
        let client = client(address);
        let mut counts = self.counts();
        let count = counts.entry(client).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(OfClient { clients: self.clone(), client })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OfClient {
    fn drop(&mut self) {
        let mut counts = self.clients.counts();
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// A customer has one address of IPv4, also if it is written as one of IPv6, or a network of 64 bits.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_places_and_gives_them_back() {
        let clients = Clients::new(2).unwrap();
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let places = [clients.take(one).unwrap(), clients.take(one).unwrap()];
        assert!(clients.take(one).is_none());
        assert!(clients.take(other).is_some());
        drop(places);
        assert!(clients.counts().is_empty(), "nothing is kept of who has left");
        assert!(clients.take(one).is_some());
    }

    #[test]
    fn a_network_of_64_bits_is_one_client_and_an_address_is_one_in_either_spelling() {
        let clients = Clients::new(1).unwrap();
        let take = |address: &str| clients.take(address.parse().unwrap());
        let _place = take("2001:db8:0:1::1").unwrap();
        assert!(take("2001:db8:0:1:ffff::2").is_none());
        assert!(take("2001:db8:0:2::1").is_some());
        let _place = take("10.0.0.1").unwrap();
        assert!(take("::ffff:10.0.0.1").is_none());
    }

    #[test]
    fn without_a_limit_nobody_is_counted() {
        assert!(Clients::new(usize::MAX).is_none());
    }
}
