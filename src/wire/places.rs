//! How many connections are open, and from where.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use crate::http::household;

/// The connections that may be open.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    most_of_one: Option<usize>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// The place of one connection, while it is open.
#[derive(Debug)]
pub struct Place {
    _one: OwnedSemaphorePermit,
    of: Option<(Arc<Places>, IpAddr)>,
}

impl Places {
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(limits.connections)),
            most_of_one: limits.connections_per_address,
            by_address: Mutex::default(),
        })
    }

    /// A place for a connection; none if there is no room. Who comes for many is not counted by address.
    pub fn take(self: &Arc<Self>, address: IpAddr, is_proxy: bool) -> Option<Place> {
        let one = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let Some(most) = self.most_of_one.filter(|_| !is_proxy) else {
            return Some(Place {
                _one: one,
                of: None,
            });
        };
        let address = household(address);
        let mut by_address = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place {
            _one: one,
            of: Some((Arc::clone(self), address)),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((places, address)) = &self.of else {
            return;
        };
        let mut by_address = places
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_them_all() {
        let limits = Limits {
            connections: 4,
            connections_per_address: Some(2),
            ..Limits::default()
        };
        let places = Places::new(&limits);
        let take = |address: &str, is_proxy| places.take(address.parse().expect("one"), is_proxy);
        let held = [take("192.0.2.1", false), take("::ffff:192.0.2.1", false)];
        assert!(held.iter().all(Option::is_some));
        assert!(take("192.0.2.1", false).is_none());
        let proxy = take("192.0.2.1", true);
        assert!(proxy.is_some());
        let other = take("2001:db8::1", false);
        assert!(other.is_some());
        // There are four in all.
        assert!(take("198.51.100.1", true).is_none());
        drop(held);
        assert!(take("192.0.2.1", false).is_some());
        let one = take("2001:db8::2", false);
        assert!(one.is_some() && take("2001:db8::3", false).is_none());
        drop((one, other, proxy));
        assert!(places.by_address.lock().expect("the lock").is_empty());
    }
}
