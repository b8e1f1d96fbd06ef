//! A key: its public half, and where the private half is.
//!
//! Where the public half is known from the key file, loading a key makes no PKCS#11 call at all: the HSM is first asked when
//! something is signed.

mod keys;

use std::collections::HashSet;

use zeroize::Zeroizing;

use crate::error::{Error, Reason, Result, bail};
use crate::hsm::{Object, ObjectClass, PrivateKey};
use crate::mechanism::{Mechanism, PssRestriction};
use crate::public::{PssParams, PublicKey, RsaPublicKey};
use crate::uri::{Class, Uri};
use crate::workers;

pub use keys::{Ask, Keys};

/// A key in an HSM. It never changes.
pub struct Key {
    public: PublicKey,
    /// Or why there is no way to it: a key file can be loaded, compared and shown without the HSM.
    private: Result<PrivateKey>,
    address: String,
    pss: Option<Pss>,
}

/// That an RSA key is for RSASSA-PSS only.
#[derive(Clone, Default)]
struct Pss {
    params: PssParams,
    restriction: Option<PssRestriction>,
}

impl Key {
    /// A key that is found when it first signs.
    fn lazy(public: PublicKey, private: Result<PrivateKey>, address: String) -> Self {
        Self { public, private, address, pss: None }
    }

    /// The same key for RSASSA-PSS only, where it is said what that is. An HSM knows nothing of digests and salts: that is in a key file.
    ///
    /// # Errors
    /// `KeyUnsupported` for parameters that are not known here.
    pub fn for_pss(mut self, params: Option<&PssParams>) -> Result<Self> {
        if let Some(params) = params {
            self.pss = Some(Pss { restriction: PssRestriction::of(params)?, params: params.clone() });
        }
        Ok(self)
    }

    /// A private key that a search found.
    ///
    /// # Errors
    /// `KeyUnsupported` where the HSM does not say its public half, without which nothing can be done with it.
    fn found(object: &Object) -> Result<Self> {
        let address = address(object);
        match (object.private_key(), &object.public) {
            (Some(private), Some(public)) => {
                usable(public)?;
                let pss = object.pss_only.then(Pss::default);
                Ok(Self { public: public.clone(), private: Ok(private), address, pss })
            }
            _ => bail!(
                KeyUnsupported,
                "the HSM does not say the public half of {address}, and no public key there is it"
            ),
        }
    }

    /// The same key by the name that the user gave it, which says where its PIN is too; where that name is one key's. What the token calls
    /// itself, its serial number, need not be what the key's next home does.
    #[must_use]
    pub fn called(mut self, uri: &Uri) -> Self {
        if uri.names_a_key() {
            self.address = Uri { class: Some(Class::Private), ..uri.clone() }.address().to_string();
        }
        self
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The public half of an RSA key.
    ///
    /// # Errors
    /// `KeyUnsupported` for another type.
    pub fn rsa(&self) -> Result<&RsaPublicKey> {
        match &self.public {
            PublicKey::Rsa(rsa) => Ok(rsa),
            other => bail!(KeyUnsupported, "{} is an {} key", self.address, other.type_name()),
        }
    }

    /// What stands of RSASSA-PSS in its SubjectPublicKeyInfo, where it signs with that only: the HSM or the key file says so.
    pub fn pss(&self) -> Option<&PssParams> {
        self.pss.as_ref().map(|pss| &pss.params)
    }

    /// What it signs with, where it is restricted to one PSS.
    pub fn pss_restriction(&self) -> Option<&PssRestriction> {
        self.pss.as_ref().and_then(|pss| pss.restriction.as_ref())
    }

    /// Where it is, as a URI without a PIN.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Signs with the private half. `output` has room for the signature; the result says how much of it was written.
    ///
    /// # Errors
    /// What is wrong with the key, the PIN or the HSM, with the key's address.
    pub fn sign(&self, mechanism: &Mechanism, input: &[u8], output: &mut [u8]) -> Result<usize> {
        let private = self.private()?;
        workers::outside(|| private.sign(mechanism, input, output))
    }

    /// Decrypts with the private half. `output` has room for the modulus; the result says how much of it was written.
    ///
    /// # Errors
    /// As for [`Key::sign`], and what is wrong with the data.
    pub fn decrypt(&self, mechanism: &Mechanism, input: &[u8], output: &mut [u8]) -> Result<usize> {
        let private = self.private()?;
        workers::outside(|| private.decrypt(mechanism, input, output))
    }

    /// The secret that the private half and somebody else's point `04 || X || Y` have in common, `size` octets.
    ///
    /// # Errors
    /// As for [`Key::sign`].
    pub fn derive(&self, point: &[u8], size: usize) -> Result<Zeroizing<Vec<u8>>> {
        let private = self.private()?;
        workers::outside(|| private.derive(point, size))
    }

    fn private(&self) -> Result<&PrivateKey> {
        self.private.as_ref().map_err(Clone::clone)
    }
}

/// Fails for a public half that nothing can be done with.
fn usable(public: &PublicKey) -> Result<()> {
    match public {
        PublicKey::Ec(ec) => ec.curve().map(drop),
        PublicKey::Rsa(_) | PublicKey::Ed25519(_) => Ok(()),
    }
}

/// The URI of an object that a search found.
pub fn address(object: &Object) -> String {
    let uri = Uri {
        token: object.token.clone(),
        object: Some(object.label.clone()).filter(|label| !label.is_empty()),
        id: Some(object.id.clone()).filter(|id| !id.is_empty()),
        class: Some(Class::Private),
        ..Uri::default()
    };
    uri.address().to_string()
}

/// The objects without the private keys that are there before under another handle: what was imported or restored twice is one key
/// still, and whichever of them signs, it is the same signature. Those that only an id gives their public half are not among them: several
/// keys may have one id.
pub fn distinct(mut objects: Vec<Object>) -> Vec<Object> {
    let mut seen = HashSet::new();
    objects.retain(|object| match &object.public {
        Some(public) if object.class == ObjectClass::PrivateKey && object.is_proven() => {
            seen.insert(public.clone())
        }
        _ => true,
    });
    objects
}

/// The error for a name that is no key's.
pub fn absent(uri: &Uri) -> Error {
    let detail = format!("{}; the user sees those that openssl storeutl -keys pkcs11: shows", uri.address());
    Error::new(Reason::KeyNotFound, detail)
}

/// The error for a name that is not one key's: it lists them.
pub fn ambiguous(keys: &[Key]) -> Error {
    let addresses = list(keys.iter().map(|key| key.address().to_owned()));
    Error::new(Reason::KeyAmbiguous, format!("{} keys: {addresses}; name one of them", keys.len()))
}

/// The first of some addresses, for a message.
pub fn list(addresses: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 10;
    let mut list: Vec<String> = addresses.take(SHOWN + 1).collect();
    if list.len() > SHOWN {
        list[SHOWN] = "...".into();
    }
    list.join(", ")
}
