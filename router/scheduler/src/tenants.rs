//! How many tokens each tenant got: the scale on which turns are fair. Knows names and counts; not sequences.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng 1996) over tokens. A tenant that comes back starts at the clock, the least
//! served of those that wait: it gets no arrears for the time it was away.

use std::{collections::HashMap, sync::Arc};

/// Tenants remembered that wait for nothing; the oldest debts are forgiven beyond it.
const REMEMBERED: usize = 4096;

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    served: u64,
    waiting: u32,
}

/// Accounts by tenant.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    accounts: HashMap<Arc<str>, Account>,
    clock: u64,
}

impl Tenants {
    /// One more sequence of the tenant waits.
    pub(crate) fn arrive(&mut self, tenant: &Arc<str>) {
        let clock = self.clock;
        let account = self.accounts.entry(tenant.clone()).or_default();
        if account.waiting == 0 {
            account.served = account.served.max(clock);
        }
        account.waiting += 1;
    }

    /// One of them waits no more.
    pub(crate) fn leave(&mut self, tenant: &str) {
        if let Some(account) = self.accounts.get_mut(tenant) {
            account.waiting = account.waiting.saturating_sub(1);
        }
        if self.accounts.len() > REMEMBERED {
            self.forget();
        }
    }

    fn forget(&mut self) {
        let clock = self.clock;
        self.accounts
            .retain(|_, account| account.waiting > 0 || account.served > clock);
        if self.accounts.len() > REMEMBERED {
            self.accounts.retain(|_, account| account.waiting > 0);
        }
    }

    /// A waiting sequence of the tenant begins and costs so many tokens.
    pub(crate) fn serve(&mut self, tenant: &str, tokens: u64) {
        let waiting = self.accounts.values().filter(|account| account.waiting > 0);
        let least = waiting.map(|account| account.served).min();
        self.clock = self.clock.max(least.unwrap_or_default());
        self.charge(tenant, tokens);
    }

    /// The tenant got so many tokens more.
    pub(crate) fn charge(&mut self, tenant: &str, tokens: u64) {
        if let Some(account) = self.accounts.get_mut(tenant) {
            account.served = account.served.saturating_add(tokens);
        }
    }

    /// Tokens it got, on the common scale.
    pub(crate) fn served(&self, tenant: &str) -> u64 {
        self.accounts
            .get(tenant)
            .map_or(self.clock, |account| account.served)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_never_come_back_are_forgotten() {
        let mut tenants = Tenants::default();
        for number in 0..3 * REMEMBERED {
            let name: Arc<str> = number.to_string().into();
            tenants.arrive(&name);
            tenants.serve(&name, 10);
            tenants.leave(&name);
        }
        assert!(tenants.accounts.len() <= REMEMBERED + 1);
    }
}
