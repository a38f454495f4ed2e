//! Where Ably is: from `ably.endpoint` to hosts, by the rules that every Ably client follows [REC1, REC2].

/// The hosts of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    primary: String,
    /// Tried when the primary is not reachable. None for a host that was named.
    fallbacks: Vec<String>,
}

impl Hosts {
    /// The hosts behind `endpoint`: a routing policy (`main`, `nonprod:ID`), or a host name or address.
    #[must_use]
    pub fn of(endpoint: &str) -> Self {
        if endpoint.contains(['.', '[']) || endpoint.contains("::") || endpoint == "localhost" {
            let host = endpoint.trim_start_matches('[').trim_end_matches(']');
            return Self { primary: host.to_owned(), fallbacks: Vec::new() };
        }
        let (id, domain, fallback) = match endpoint.strip_prefix("nonprod:") {
            Some(id) => (id, "realtime.ably-nonprod.net", "fallback.ably-realtime-nonprod.com"),
            None => (endpoint, "realtime.ably.net", "fallback.ably-realtime.com"),
        };
        let fallbacks = ["a", "b", "c", "d", "e"].map(|letter| format!("{id}.{letter}.{fallback}"));
        Self { primary: format!("{id}.{domain}"), fallbacks: fallbacks.to_vec() }
    }

    /// How many there are besides the first.
    #[must_use]
    pub fn fallbacks(&self) -> u32 {
        u32::try_from(self.fallbacks.len()).unwrap_or(u32::MAX)
    }

    #[cfg(test)]
    pub(super) fn with(primary: &str, fallbacks: &[&str]) -> Self {
        let fallbacks = fallbacks.iter().map(|&host| host.to_owned()).collect();
        Self { primary: primary.to_owned(), fallbacks }
    }

    /// Whether it is the turn of another host than the first.
    pub(super) fn is_fallback(&self, failures: u32) -> bool {
        !(failures as usize).is_multiple_of(self.fallbacks.len() + 1)
    }

    /// The host to try after `failures` failures in a row. `spread` makes different connections try different fallbacks.
    #[must_use]
    pub fn choose(&self, failures: u32, spread: u32) -> &str {
        let turn = failures as usize % (self.fallbacks.len() + 1);
        match turn.checked_sub(1) {
            Some(turn) => &self.fallbacks[(turn + spread as usize) % self.fallbacks.len()],
            None => &self.primary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_fallbacks_and_a_host_has_none() {
        let main = Hosts::of("main");
        assert_eq!(main.choose(0, 3), "main.realtime.ably.net");
        assert_eq!(main.choose(1, 0), "main.a.fallback.ably-realtime.com");
        assert_eq!(main.choose(1, 3), "main.d.fallback.ably-realtime.com");
        assert_eq!(main.choose(5, 3), "main.c.fallback.ably-realtime.com");
        assert_eq!(main.choose(6, 3), "main.realtime.ably.net");
        assert_eq!([0, 1, 5, 6, 7].map(|failures| main.is_fallback(failures)), [false, true, true, false, true]);
        assert!(!Hosts::of("localhost").is_fallback(1), "it has none");
        assert_eq!(Hosts::of("nonprod:x").choose(0, 0), "x.realtime.ably-nonprod.net");
        assert_eq!(Hosts::of("nonprod:x").choose(1, 1), "x.b.fallback.ably-realtime-nonprod.com");
        for (endpoint, host) in [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("a.example", "a.example")] {
            assert_eq!((Hosts::of(endpoint).choose(0, 0), Hosts::of(endpoint).choose(9, 9)), (host, host));
        }
        assert_eq!((Hosts::of("::1").choose(0, 0), Hosts::of("[::1]").choose(1, 0)), ("::1", "::1"));
    }
}
