//! The rate limit of each client: a bucket that holds the requests of one second and is refilled
//! steadily. Addresses are forgotten once their buckets are full again, and only so many are
//! remembered at a time.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a bucket takes to be refilled.
const REFILL: Duration = Duration::from_secs(1);
/// The addresses that are remembered. Others share one bucket.
const ADDRESSES: usize = 16 * 1024;

/// Whose requests are counted together.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Client {
    /// The client with the token of this name.
    Token(Arc<str>),
    /// A client without a token, by its address; of IPv6, by the network of 64 bits.
    Address(IpAddr),
    /// All clients at addresses that can't be remembered.
    Others,
}

impl Client {
    /// The client at an address.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            four @ IpAddr::V4(_) => four,
        })
    }
}

/// The buckets of all clients.
#[derive(Debug)]
pub struct Rates {
    /// The time between two requests of a client at the limit.
    interval: Duration,
    /// When each client's bucket is full again.
    full_at: HashMap<Client, Instant>,
    addresses: usize,
    swept: Option<Instant>,
}

impl Rates {
    /// A limit of so many requests a second of each client.
    #[must_use]
    pub fn new(limit: NonZeroU32) -> Self {
        Self {
            interval: REFILL / limit.get(),
            full_at: HashMap::new(),
            addresses: ADDRESSES,
            swept: None,
        }
    }

    /// Counts a request. Fails with the time after which there is room for another one.
    pub fn take(&mut self, client: Client, now: Instant) -> Result<(), Duration> {
        let client = self.remembered(client, now);
        let full_at = self.full_at.entry(client).or_insert(now);
        let after = (*full_at).max(now) + self.interval;
        match after.checked_duration_since(now + REFILL) {
            None | Some(Duration::ZERO) => {
                *full_at = after;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }

    /// The client, or [`Client::Others`] if its address can't be remembered.
    fn remembered(&mut self, client: Client, now: Instant) -> Client {
        let known = !matches!(client, Client::Address(_)) || self.full_at.contains_key(&client);
        if known || self.full_at.len() < self.addresses {
            return client;
        }
        // Every bucket is full again after that time, so more often would be in vain.
        let is_due = self.swept.is_none_or(|swept| now >= swept + REFILL);
        if is_due {
            self.swept = Some(now);
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() < self.addresses {
            client
        } else {
            Client::Others
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(limit: u32) -> Rates {
        Rates::new(NonZeroU32::new(limit).unwrap())
    }

    fn address(last: u8) -> Client {
        Client::at(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn a_client_has_the_requests_of_one_second_at_once_and_then_its_rate() {
        let (mut rates, start) = (rates(4), Instant::now());
        let mut take = |client: Client, millis| {
            let taken = rates.take(client, start + Duration::from_millis(millis));
            taken.map_err(|wait| wait.as_millis())
        };
        for _ in 0..4 {
            assert_eq!(take(address(1), 0), Ok(()));
        }
        assert_eq!(take(address(1), 0), Err(250));
        assert_eq!(take(address(1), 100), Err(150));
        let token = Client::Token("a".into());
        assert_eq!((take(address(2), 100), take(token, 100)), (Ok(()), Ok(())));
        assert_eq!(
            (take(address(1), 250), take(address(1), 250)),
            (Ok(()), Err(250))
        );
        for _ in 0..4 {
            assert_eq!(take(address(1), 10_000), Ok(()));
        }
        assert_eq!(take(address(1), 10_000), Err(250));
    }

    /// Ten seconds of requests, and those that the full bucket has at first.
    #[test]
    fn a_steady_flood_gets_the_rate() {
        for limit in [1, 3, 7, 1000] {
            let (mut rates, start) = (rates(limit), Instant::now());
            let step = Duration::from_micros(250);
            let taken = (0..40_000).filter(|at| {
                let now = start + step * *at;
                rates.take(address(1), now).is_ok()
            });
            let (taken, expected) = (taken.count(), limit as usize * 11);
            assert!(taken.abs_diff(expected) <= 1 + expected / 10, "{taken}");
        }
    }

    #[test]
    fn addresses_are_forgotten_when_they_have_paused_and_bounded_in_number() {
        let (mut rates, start) = (rates(2), Instant::now());
        rates.addresses = 3;
        for last in 1..=3 {
            assert_eq!(rates.take(address(last), start), Ok(()));
        }
        // The fourth and the fifth share a bucket; one with a token has its own.
        assert_eq!(rates.take(address(4), start), Ok(()));
        assert_eq!(rates.take(address(5), start), Ok(()));
        assert!(rates.take(address(6), start).is_err());
        assert_eq!(rates.take(Client::Token("a".into()), start), Ok(()));
        assert_eq!(rates.take(address(1), start), Ok(()));
        assert_eq!(rates.full_at.len(), 5);

        let later = start + REFILL;
        assert_eq!(rates.take(address(6), later), Ok(()));
        assert_eq!(rates.full_at.len(), 1, "{:?}", rates.full_at);
    }

    #[test]
    fn ipv6_addresses_of_one_network_are_one_client() {
        let at = |text: &str| Client::at(text.parse().unwrap());
        assert_eq!(at("2001:db8:0:1::1"), at("2001:db8:0:1:ffff::2"));
        assert_ne!(at("2001:db8:0:1::1"), at("2001:db8:0:2::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    }
}
