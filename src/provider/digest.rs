//! Digests of the application's OpenSSL, by the names that it says.

use std::borrow::Cow;

use super::Provider;
use crate::config::Sha1;
use crate::error::{Result, bail};
use crate::mechanism::{Digest, HashKind};
use crate::openssl::algorithm;
use crate::openssl::digest::Digest as HostDigest;

/// A digest of the host, and what is known about it here.
#[derive(Clone)]
pub(super) struct Chosen {
    pub(super) host: HostDigest,
    /// Where it is one of ours, of the host's size.
    pub(super) known: Option<&'static Digest>,
    /// The name that it was asked for by.
    pub(super) name: Cow<'static, str>,
}

impl Chosen {
    /// Whether it is the same digest by whatever name.
    pub(super) fn is(&self, other: &Chosen) -> bool {
        match (self.known, other.known) {
            (Some(one), Some(other)) => one.hash == other.hash,
            _ => self.host.name() == other.host.name(),
        }
    }

    /// Whether it is for the configuration to say who signs with it.
    pub(super) fn is_weak(&self) -> bool {
        self.known.is_some_and(|digest| digest.hash == HashKind::Sha1)
    }
}

impl Provider {
    /// A digest that has a size, under a property query.
    pub(super) fn choose(&self, name: &str, properties: Option<&str>) -> Result<Chosen> {
        let host = self.digest(name, properties)?;
        let size = host.size();
        if size == 0 {
            bail!(DigestUnsupported, "{} has no size of its own", host.name());
        }
        let (known, name) = match Digest::called(name) {
            Some((known, name)) => (Some(known), name),
            None => (Digest::by_name(host.name()), name.to_owned().into()),
        };
        Ok(Chosen { known: known.filter(|known| known.size == size), host, name })
    }

    /// Fails for a digest that the configuration does not let anybody sign.
    pub(super) fn permit(&self, digest: &Chosen) -> Result<()> {
        if digest.is_weak() {
            match self.keys.sha1()? {
                Sha1::Allow => {}
                Sha1::Warn => log::warn!("a signature over SHA-1"),
                Sha1::Deny => bail!(DigestUnsupported, "hsmkey-sha1 = deny"),
            }
        }
        Ok(())
    }

    /// A digest of the application's OpenSSL. We have none, so a query for ourselves is not one about digests.
    pub(super) fn digest(&self, name: &str, properties: Option<&str>) -> Result<HostDigest> {
        let others = properties.map(|properties| without_provider(properties, &self.name));
        self.digests.fetch(&self.core, name, others.as_deref().filter(|others| !others.is_empty()))
    }
}

/// A property query (property(7)) without the clauses that ask for a provider of this name, or for us in any section.
fn without_provider(properties: &str, name: &str) -> String {
    let asks_for_us = |clause: &str| {
        let clause = clause.trim().trim_start_matches('?');
        // A name alone is one with yes.
        let (key, value) = clause.split_once('=').unwrap_or((clause, "yes"));
        let (key, value) = (key.trim(), value.trim().trim_matches(['\'', '"']));
        key.eq_ignore_ascii_case("provider") && value == name
            || key.eq_ignore_ascii_case(algorithm::PROPERTY) && value.eq_ignore_ascii_case("yes")
    };
    let others: Vec<&str> = properties.split(',').filter(|clause| !asks_for_us(clause)).collect();
    others.join(",")
}

#[cfg(test)]
mod tests {
    use super::without_provider;

    #[test]
    fn a_query_for_ourselves_is_none_for_a_digest() {
        for (query, others) in [
            ("provider=hsmkey", ""),
            ("?provider=hsmkey", ""),
            ("fips=yes, provider = 'hsmkey'", "fips=yes"),
            ("provider=default,fips=no", "provider=default,fips=no"),
            ("provider=hsmkey2", "provider=hsmkey2"),
            ("provider!=hsmkey", "provider!=hsmkey"),
            ("hsmkey.provider", ""),
            ("?hsmkey.provider=yes,fips=yes", "fips=yes"),
            ("hsmkey.provider=no", "hsmkey.provider=no"),
            ("hsmkey.provider!=yes", "hsmkey.provider!=yes"),
        ] {
            assert_eq!(without_provider(query, "hsmkey"), others);
        }
    }
}
