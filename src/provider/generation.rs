//! Key generation: `openssl genpkey` makes a key in the HSM where it is told to by a URI, and writes its key file.
//!
//! Without a URI nothing is made: where hsmkey is listed before the default provider, an application that wants a key of its own
//! would get one in the HSM for ever.

use std::ffi::CStr;
use std::sync::Arc;

use super::Provider;
use super::key::Key;
use crate::curve::Curve;
use crate::error::{Result, bail};
use crate::hsm::{NewKey, NewKeyKind, Usage};
use crate::mechanism::{Digest, PssRestriction};
use crate::openssl::bindings as c;
use crate::openssl::core::{Core, HasCore};
use crate::openssl::operation::generation::Generation;
use crate::openssl::params::{Descriptors, Params, descriptors};
use crate::public::PssParams;
use crate::uri::{Class, Uri};

/// Names the key that is to be: token, object and id. pkcs11-provider's name for it.
const URI: &CStr = c"pkcs11_uri";
/// What the key may be used for: names of X.509's key usage, separated by blanks or commas. pkcs11-provider's name for it.
const USAGE: &CStr = c"pkcs11_key_usage";
/// CKA_EXTRACTABLE, 0 or 1.
const EXTRACTABLE: &CStr = c"hsmkey_extractable";

/// What is wanted of a key of any type.
struct Wanted {
    provider: Arc<Provider>,
    uri: Option<Uri>,
    usage: Usage,
    extractable: bool,
}

impl Wanted {
    fn new(provider: &Arc<Provider>) -> Self {
        let usage = Usage { sign: true, ..Usage::default() };
        Self { provider: Arc::clone(provider), uri: None, usage, extractable: false }
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        if let Some(uri) = params.get(URI) {
            let uri = Uri::parse(uri.text()?.as_bytes())?;
            if !matches!(uri.class, None | Some(Class::Private)) {
                bail!(BadUri, "a new key is private");
            }
            self.uri = Some(uri);
        }
        if let Some(usage) = params.get(USAGE) {
            self.usage = read_usage(usage.text()?)?;
        }
        if let Some(extractable) = params.get(EXTRACTABLE) {
            self.extractable = match extractable.integer()? {
                0 => false,
                1 => true,
                number => bail!(InvalidArgument, "hsmkey_extractable is 0 or 1, not {number}"),
            };
        }
        Ok(())
    }

    fn generate(&self, kind: NewKeyKind, pss: Option<&PssParams>) -> Result<Arc<Key>> {
        let named = self.uri.as_ref().and_then(|uri| uri.object.as_ref().map(|label| (uri, label)));
        let Some((uri, label)) = named.filter(|(_, label)| !label.is_empty()) else {
            bail!(
                InvalidArgument,
                "name the new key, as in -pkeyopt pkcs11_uri:pkcs11:object=NAME; for a key outside of the HSM, list the default \
                 provider before hsmkey"
            );
        };
        let new = NewKey {
            token: uri.token.clone(),
            label: label.clone(),
            id: uri.id.clone().unwrap_or_default(),
            kind,
            usage: self.usage,
            extractable: self.extractable,
        };
        let keys = &self.provider.keys;
        // Whoever generates a key has given no callback for questions.
        let key = self.provider.at_length(|| keys.generate(uri, &new, &mut || Ok(None)))?;
        // Whether its file comes to be is the application's matter, and a key that nobody knows of stays for ever.
        log::info!("made {} in the HSM", key.address());
        Ok(Key::new(&self.provider, key.for_pss(pss)?))
    }
}

/// What X.509 calls the uses of a key.
fn read_usage(names: &str) -> Result<Usage> {
    let mut usage = Usage::default();
    for name in names.split([' ', ',']).filter(|name| !name.is_empty()) {
        match name {
            "digitalSignature" | "nonRepudiation" | "contentCommitment" | "keyCertSign" | "cRLSign" => {
                usage.sign = true;
            }
            "keyEncipherment" | "dataEncipherment" => usage.decrypt = true,
            "keyAgreement" => usage.derive = true,
            _ => bail!(InvalidArgument, "pkcs11_key_usage knows no {name}"),
        }
    }
    if usage == Usage::default() {
        bail!(InvalidArgument, "pkcs11_key_usage names no use");
    }
    Ok(usage)
}

/// A restriction to one PSS, with what the parameters say of it. Whoever says something restricts the rest to RFC 8017's defaults.
fn restrict(restriction: Option<PssRestriction>, params: &Params) -> Result<Option<PssRestriction>> {
    let digest = |name| -> Result<_> {
        let Some(param) = params.get(name) else { return Ok(None) };
        match Digest::by_name(param.text()?) {
            Some(digest) => Ok(Some(digest)),
            None => bail!(DigestUnsupported, "a key cannot be restricted to PSS with {}", param.text()?),
        }
    };
    let (hash, mgf1) = (digest(c::OSSL_PKEY_PARAM_RSA_DIGEST)?, digest(c::OSSL_PKEY_PARAM_RSA_MGF1_DIGEST)?);
    let mask = params.get(c::OSSL_PKEY_PARAM_RSA_MASKGENFUNC).map(|mask| mask.text()).transpose()?;
    if mask.is_some_and(|mask| !mask.eq_ignore_ascii_case("MGF1")) {
        bail!(InvalidArgument, "PSS has no other mask generation function than MGF1");
    }
    let salt = params.get(c::OSSL_PKEY_PARAM_RSA_PSS_SALTLEN).map(|salt| salt.integer()).transpose()?;
    let salt = match salt.map(u16::try_from) {
        Some(Err(_)) => bail!(SaltLength, "the fewest octets of salt are 0 to 65535"),
        Some(Ok(salt)) => Some(usize::from(salt)),
        None => None,
    };
    if hash.is_none() && mgf1.is_none() && mask.is_none() && salt.is_none() {
        return Ok(restriction);
    }
    let old = restriction.unwrap_or_default();
    Ok(Some(PssRestriction {
        digest: hash.unwrap_or(old.digest),
        mgf1: mgf1.unwrap_or(old.mgf1),
        salt: salt.unwrap_or(old.salt),
    }))
}

const PSS_SETTABLE: Descriptors = descriptors![
    c::OSSL_PKEY_PARAM_RSA_BITS => Unsigned,
    c::OSSL_PKEY_PARAM_RSA_PRIMES => Unsigned,
    c::OSSL_PKEY_PARAM_RSA_E => Unsigned,
    c::OSSL_PKEY_PARAM_RSA_DIGEST => Utf8,
    c::OSSL_PKEY_PARAM_RSA_MASKGENFUNC => Utf8,
    c::OSSL_PKEY_PARAM_RSA_MGF1_DIGEST => Utf8,
    c::OSSL_PKEY_PARAM_RSA_PSS_SALTLEN => Integer,
    URI => Utf8,
    USAGE => Utf8,
    EXTRACTABLE => Integer,
];

const RSA_SETTABLE: Descriptors = descriptors![
    c::OSSL_PKEY_PARAM_RSA_BITS => Unsigned,
    c::OSSL_PKEY_PARAM_RSA_PRIMES => Unsigned,
    c::OSSL_PKEY_PARAM_RSA_E => Unsigned,
    URI => Utf8,
    USAGE => Utf8,
    EXTRACTABLE => Integer,
];

/// An RSA key; `PSS` restricts it to RSASSA-PSS.
pub(super) struct Rsa<const PSS: bool> {
    wanted: Wanted,
    bits: u64,
    exponent: Vec<u8>,
    restriction: Option<PssRestriction>,
}

impl<const PSS: bool> HasCore for Rsa<PSS> {
    fn core(&self) -> &Core {
        self.wanted.provider.core()
    }
}

impl<const PSS: bool> Generation for Rsa<PSS> {
    type Provider = Provider;
    type Key = Key;

    const SETTABLE: Descriptors = if PSS { PSS_SETTABLE } else { RSA_SETTABLE };

    fn new(provider: &Arc<Provider>) -> Self {
        Self { wanted: Wanted::new(provider), bits: 2048, exponent: vec![1, 0, 1], restriction: None }
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        if let Some(bits) = params.get(c::OSSL_PKEY_PARAM_RSA_BITS) {
            self.bits = match u64::try_from(bits.integer()?) {
                Ok(bits @ 1024..=16384) => bits,
                _ => bail!(InvalidArgument, "an RSA key has 1024 to 16384 bits"),
            };
        }
        if let Some(exponent) = params.get(c::OSSL_PKEY_PARAM_RSA_E) {
            self.exponent = exponent.big_integer()?;
            let odd = self.exponent.last().is_some_and(|last| last % 2 == 1);
            if !odd || self.exponent == [1] {
                bail!(InvalidArgument, "a public exponent is an odd number from 3");
            }
        }
        if let Some(primes) = params.get(c::OSSL_PKEY_PARAM_RSA_PRIMES) {
            if primes.integer()? != 2 {
                bail!(InvalidArgument, "PKCS#11 makes RSA keys of two primes");
            }
        }
        if PSS {
            self.restriction = restrict(self.restriction, params)?;
        }
        self.wanted.set_params(params)
    }

    fn generate(&self) -> Result<Arc<Key>> {
        let (bits, exponent) = (self.bits, self.exponent.clone());
        let pss = self.restriction.as_ref().map(PssRestriction::params).transpose()?;
        let pss = PSS.then(|| pss.unwrap_or_default());
        self.wanted.generate(NewKeyKind::Rsa { bits, exponent, pss_only: PSS }, pss.as_ref())
    }
}

/// An EC key.
pub(super) struct Ec {
    wanted: Wanted,
    curve: Option<&'static Curve>,
}

impl HasCore for Ec {
    fn core(&self) -> &Core {
        self.wanted.provider.core()
    }
}

impl Generation for Ec {
    type Provider = Provider;
    type Key = Key;

    const SETTABLE: Descriptors = descriptors![
        c::OSSL_PKEY_PARAM_GROUP_NAME => Utf8,
        c::OSSL_PKEY_PARAM_EC_ENCODING => Utf8,
        URI => Utf8,
        USAGE => Utf8,
        EXTRACTABLE => Integer,
    ];

    fn new(provider: &Arc<Provider>) -> Self {
        Self { wanted: Wanted::new(provider), curve: None }
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        if let Some(name) = params.get(c::OSSL_PKEY_PARAM_GROUP_NAME) {
            let name = name.text()?;
            let Some(curve) = Curve::by_name(name) else {
                bail!(KeyUnsupported, "the curves are P-256, P-384, P-521 and secp256k1, not {name}");
            };
            self.curve = Some(curve);
        }
        if let Some(encoding) = params.get(c::OSSL_PKEY_PARAM_EC_ENCODING) {
            if encoding.text()? != "named_curve" {
                bail!(InvalidArgument, "curves of keys in an HSM have names");
            }
        }
        self.wanted.set_params(params)
    }

    fn generate(&self) -> Result<Arc<Key>> {
        let params = self.curve()?.params.to_vec();
        self.wanted.generate(NewKeyKind::Ec { params }, None)
    }

    fn parameters(&self) -> Result<Arc<Key>> {
        Ok(Arc::new(Key::empty(&self.wanted.provider).on_curve(self.curve()?)))
    }
}

impl Ec {
    fn curve(&self) -> Result<&'static Curve> {
        match self.curve {
            Some(curve) => Ok(curve),
            None => bail!(InvalidArgument, "name the curve, as in -pkeyopt ec_paramgen_curve:P-256"),
        }
    }
}

/// An Ed25519 key.
pub(super) struct Ed25519(Wanted);

impl HasCore for Ed25519 {
    fn core(&self) -> &Core {
        self.0.provider.core()
    }
}

impl Generation for Ed25519 {
    type Provider = Provider;
    type Key = Key;

    const SETTABLE: Descriptors = descriptors![URI => Utf8, USAGE => Utf8, EXTRACTABLE => Integer];

    fn new(provider: &Arc<Provider>) -> Self {
        Self(Wanted::new(provider))
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        self.0.set_params(params)
    }

    fn generate(&self) -> Result<Arc<Key>> {
        self.0.generate(NewKeyKind::Ed25519, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_have_the_names_of_x509() {
        let usage = |names| read_usage(names).map_err(|error| error.reason());
        let all = Usage { sign: true, decrypt: true, derive: true };
        assert_eq!(usage("digitalSignature keyEncipherment, keyAgreement"), Ok(all));
        assert_eq!(usage("cRLSign"), Ok(Usage { sign: true, ..Usage::default() }));
        assert_eq!(usage("sign"), Err(crate::error::Reason::InvalidArgument));
        assert_eq!(usage(" "), Err(crate::error::Reason::InvalidArgument));
    }
}
