//! RSA signatures: PKCS#1 v1.5, PSS and what is padded already.

use std::ffi::CString;

use zeroize::Zeroizing;

use super::super::pss;
use super::{Context, Purpose, Scheme, unsupported};
use crate::error::{Error, Reason, Result, bail};
use crate::mechanism::{self, Digest, Mechanism, Padding};
use crate::openssl::bindings as c;
use crate::openssl::operation::signature::Recover;
use crate::openssl::params::{Descriptors, Param, ParamList, Params, Request, descriptors};
use crate::provider::Provider;
use crate::provider::digest::Chosen;
use crate::provider::key::Key;

/// The settings of an RSA signature.
#[derive(Clone)]
pub(in crate::provider) struct Rsa {
    mode: Mode,
    mgf1: Option<Chosen>,
    /// A length or one of OpenSSL's negative numbers.
    salt: i32,
    /// Of a key that is restricted to one digest and one for MGF1: the digest, and the fewest octets of salt.
    restriction: Option<(&'static Digest, i32)>,
    /// Nobody has asked for the digest that there is.
    digest_is_implied: bool,
}

/// OSSL_SIGNATURE_PARAM_PAD_MODE.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pkcs1,
    Pss,
    None,
}

/// OpenSSL's numbers and names of the paddings, <openssl/rsa.h> and <openssl/core_names.h>.
const MODES: [(Mode, i32, &std::ffi::CStr); 3] = [
    (Mode::Pkcs1, c::RSA_PKCS1_PADDING, c::OSSL_PKEY_RSA_PAD_MODE_PKCSV15),
    (Mode::Pss, c::RSA_PKCS1_PSS_PADDING, c::OSSL_PKEY_RSA_PAD_MODE_PSS),
    (Mode::None, c::RSA_NO_PADDING, c::OSSL_PKEY_RSA_PAD_MODE_NONE),
];

impl Scheme for Rsa {
    const GETTABLE: Descriptors = descriptors![
        c::OSSL_SIGNATURE_PARAM_ALGORITHM_ID => Octets,
        c::OSSL_SIGNATURE_PARAM_PAD_MODE => Utf8,
        c::OSSL_SIGNATURE_PARAM_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_MGF1_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN => Utf8,
    ];
    const SETTABLE: Descriptors = descriptors![
        c::OSSL_SIGNATURE_PARAM_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_PROPERTIES => Utf8,
        c::OSSL_SIGNATURE_PARAM_PAD_MODE => Utf8,
        c::OSSL_SIGNATURE_PARAM_MGF1_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_MGF1_PROPERTIES => Utf8,
        c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN => Utf8,
    ];

    fn new(provider: &Provider) -> Self {
        let salt = provider.default_salt();
        Self { mode: Mode::Pkcs1, mgf1: None, salt, restriction: None, digest_is_implied: false }
    }

    fn fits(key: &Key) -> Result<()> {
        key.rsa().map(drop)
    }

    fn begin(context: &mut Context<Self>) -> Result<()> {
        let key = context.key()?;
        let pss_only = key.pss_only();
        let restriction = if pss_only { key.pss_restriction().copied() } else { None };
        context.scheme.mode = if pss_only { Mode::Pss } else { Mode::Pkcs1 };
        context.scheme.salt = context.provider.default_salt();
        context.scheme.restriction = None;
        let Some(restriction) = restriction else { return Ok(()) };
        context.scheme.mgf1 = Some(context.choose(restriction.mgf1.long_name(), None)?);
        context.set_digest(restriction.digest.long_name(), None)?;
        if let Some(digest) = &mut context.digest {
            digest.name = restriction.digest.long_name().into();
        }
        context.scheme.salt = i32::try_from(restriction.salt).map_err(|_| Error::from(Reason::SaltLength))?;
        context.salt(restriction.digest)?;
        context.scheme.restriction = Some((restriction.digest, context.scheme.salt));
        Ok(())
    }

    fn takes(&self, digest: &Chosen) -> Result<()> {
        match (digest.known, self.restriction) {
            (Some(_), None) => Ok(()),
            (Some(known), Some((only, _))) if known.hash == only.hash => Ok(()),
            (Some(_), Some((only, _))) => bail!(DigestUnsupported, "the key signs with {} only", only.name()),
            (None, _) => Err(unsupported(digest)),
        }
    }

    fn looks(provider: &Provider) -> bool {
        // From 3.6 on OpenSSL's own provider does not look whether a parameter names another digest than the one that is fixed.
        provider.version < (3, 6)
    }

    fn set(context: &mut Context<Self>, params: &Params) -> Result<()> {
        let text = |name| params.get(name).map(|param| param.text()).transpose();
        if let Some(mode) = params.get(c::OSSL_SIGNATURE_PARAM_PAD_MODE) {
            context.set_mode(read_mode(&mode)?)?;
        }
        if let Some(salt) = params.get(c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN) {
            context.needs_pss("a salt length")?;
            context.scheme.salt = if salt.is_text() {
                mechanism::pss_salt_number(salt.text()?)?
            } else {
                let number = salt.integer()?;
                match i32::try_from(number) {
                    Ok(number) if number >= mechanism::SALT_AUTO_DIGEST_MAX => number,
                    _ => bail!(SaltLength, "{number}"),
                }
            };
            context.check_salt()?;
        }
        if let Some(name) = text(c::OSSL_SIGNATURE_PARAM_MGF1_DIGEST)?.filter(|name| !name.is_empty()) {
            context.needs_pss("an MGF1 digest")?;
            context.set_mgf1(name, text(c::OSSL_SIGNATURE_PARAM_MGF1_PROPERTIES)?)?;
        }
        Ok(())
    }

    fn answer(context: &Context<Self>, request: &mut Request) -> Result<()> {
        let Self { mode, mgf1, salt, .. } = &context.scheme;
        for (known, number, name) in MODES {
            if known == *mode {
                request.choice(c::OSSL_SIGNATURE_PARAM_PAD_MODE, number, name)?;
            }
        }
        if let Some(digest) = &context.digest {
            request.string(c::OSSL_SIGNATURE_PARAM_DIGEST, &digest.name)?;
        }
        if let Some(mgf1) = mgf1.as_ref().or(context.digest.as_ref()) {
            request.string(c::OSSL_SIGNATURE_PARAM_MGF1_DIGEST, &mgf1.name)?;
        }
        let named = match *salt {
            mechanism::SALT_DIGEST => Some(c"digest"),
            mechanism::SALT_AUTO => Some(c"auto"),
            mechanism::SALT_MAX => Some(c"max"),
            mechanism::SALT_AUTO_DIGEST_MAX => Some(c"auto-digestmax"),
            _ => None,
        };
        match named {
            Some(name) => request.choice(c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN, *salt, name),
            None => {
                let octets = CString::new(salt.to_string()).map_err(|_| Error::from(Reason::Internal))?;
                request.choice(c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN, *salt, &octets)
            }
        }
    }

    fn size(key: &Key) -> Result<usize> {
        Ok(key.rsa()?.size())
    }

    fn sign(context: &Context<Self>, value: &[u8], signature: &mut [u8]) -> Result<usize> {
        let key = context.key()?;
        let bits = key.rsa()?.bits();
        if let Some(digest) = context.digest.as_ref().filter(|_| context.scheme.digest_is_implied) {
            context.provider.permit(digest)?;
        }
        let digest = context.digest.as_ref().and_then(|digest| digest.known);
        let padding = match (context.scheme.mode, digest) {
            (Mode::Pkcs1, _) => Padding::Pkcs1,
            (Mode::None, _) => Padding::None,
            (Mode::Pss, Some(digest)) => {
                Padding::Pss { mgf1: context.mgf1(digest), salt: context.salt(digest)? }
            }
            (Mode::Pss, None) => bail!(DigestMissing, "PSS needs one"),
        };
        let (mechanism, input) = mechanism::prepare(&padding, digest, value, bits)?;
        match (key.sign(&mechanism, &input, signature), &padding) {
            (Err(error), Padding::Pss { salt, .. }) if error.reason() == Reason::MechanismUnsupported => {
                context.sign_encoded(value, *salt, signature)
            }
            (result, _) => result,
        }
    }

    fn verify(context: &Context<Self>, value: &[u8], signature: &[u8]) -> Result<bool> {
        let key = context.key()?.rsa()?;
        context.provider.verifier.verifies_rsa(key, &context.params(), value, signature)
    }

    fn algorithm_id(context: &Context<Self>, digest: &Chosen) -> Result<Option<Vec<u8>>> {
        let Some(digest) = digest.known else { return Ok(None) };
        Ok(match context.scheme.mode {
            Mode::Pkcs1 => mechanism::pkcs1_algorithm_id(digest),
            Mode::Pss => mechanism::pss_algorithm_id(digest, context.mgf1(digest), context.salt(digest)?),
            Mode::None => None,
        })
    }
}

impl Recover for Context<Rsa> {
    fn recover(&mut self, signature: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        self.is_begun(Purpose::Recover)?;
        if self.scheme.mode == Mode::Pss {
            bail!(PaddingUnsupported, "nothing can be recovered from PSS");
        }
        self.provider.verifier.recovers_rsa(self.key()?.rsa()?, &self.params(), signature)
    }
}

impl Context<Rsa> {
    fn set_mode(&mut self, mode: Mode) -> Result<()> {
        if mode != Mode::Pss && self.key.as_ref().is_some_and(|key| key.pss_only()) {
            bail!(PaddingUnsupported, "the key signs with PSS only");
        }
        if mode == Mode::Pss && self.purpose == Purpose::Recover {
            bail!(PaddingUnsupported, "nothing can be recovered from PSS");
        }
        self.scheme.mode = mode;
        // What OpenSSL takes where PSS is asked for and nothing says how it hashes.
        if mode == Mode::Pss && self.digest.is_none() {
            self.digest = Some(self.provider.choose("SHA1", self.properties.as_deref())?);
            self.scheme.digest_is_implied = true;
        }
        Ok(())
    }

    fn set_mgf1(&mut self, name: &str, properties: Option<&str>) -> Result<()> {
        let chosen = self.provider.choose(name, properties.or(self.properties.as_deref()))?;
        if chosen.known.is_none() {
            return Err(unsupported(&chosen));
        }
        let other = self.scheme.mgf1.as_ref().is_some_and(|mgf1| !mgf1.is(&chosen));
        if other && self.scheme.restriction.is_some() {
            bail!(DigestUnsupported, "the key signs with another digest in MGF1");
        }
        if self.purpose == Purpose::Sign {
            self.provider.permit(&chosen)?;
        }
        self.scheme.mgf1 = Some(chosen);
        Ok(())
    }

    fn needs_pss(&self, what: &str) -> Result<()> {
        if self.scheme.mode == Mode::Pss {
            Ok(())
        } else {
            bail!(PaddingUnsupported, "{what} belongs to PSS")
        }
    }

    /// Whether a key that is restricted to some octets of salt signs and verifies with so many.
    fn check_salt(&self) -> Result<()> {
        let Some((digest, fewest)) = self.scheme.restriction else { return Ok(()) };
        let salt = match self.scheme.salt {
            mechanism::SALT_DIGEST => i32::try_from(digest.size).ok(),
            // As OpenSSL's own provider has it in its versions.
            mechanism::SALT_AUTO | mechanism::SALT_AUTO_DIGEST_MAX => {
                let verifying = self.purpose == Purpose::Verify;
                let refused = if self.provider.version < (3, 4) { verifying } else { !verifying };
                refused.then_some(-1)
            }
            salt => Some(salt).filter(|salt| *salt >= 0),
        };
        match salt {
            Some(salt) if salt < fewest => {
                bail!(SaltLength, "the key is restricted to {fewest} octets and more")
            }
            _ => Ok(()),
        }
    }

    /// The salt in octets for a digest.
    fn salt(&self, digest: &Digest) -> Result<usize> {
        mechanism::pss_salt_length(self.scheme.salt, digest, self.key()?.rsa()?.bits())
    }

    fn mgf1(&self, digest: &'static Digest) -> &'static Digest {
        self.scheme.mgf1.as_ref().and_then(|mgf1| mgf1.known).unwrap_or(digest)
    }

    /// PSS where the HSM does not offer it: it signs the block that is made here.
    fn sign_encoded(&self, value: &[u8], salt: usize, signature: &mut [u8]) -> Result<usize> {
        let key = self.key()?;
        let Some(digest) = &self.digest else { bail!(DigestMissing, "PSS needs one") };
        let mgf1 = self.scheme.mgf1.as_ref().unwrap_or(digest);
        let block = pss::encode(value, &digest.host, &mgf1.host, salt, key.rsa()?.bits())?;
        key.sign(&Mechanism::RsaX509, &block, signature)
    }

    /// Padding, digests and salt, as the application's OpenSSL takes them.
    fn params(&self) -> ParamList {
        let Rsa { mode, mgf1, salt, .. } = &self.scheme;
        let mut params = ParamList::new();
        if let Some(digest) = &self.digest {
            params = params.string(c::OSSL_SIGNATURE_PARAM_DIGEST, digest.host.name());
        }
        for (_, _, name) in MODES.iter().filter(|(known, ..)| known == mode) {
            params = params.text(c::OSSL_SIGNATURE_PARAM_PAD_MODE, name);
        }
        if *mode == Mode::Pss {
            params = params.string(c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN, &salt.to_string());
            if let Some(mgf1) = mgf1 {
                params = params.string(c::OSSL_SIGNATURE_PARAM_MGF1_DIGEST, mgf1.host.name());
            }
        }
        params
    }
}

/// The padding's number or name.
fn read_mode(param: &Param) -> Result<Mode> {
    let found = if param.is_text() {
        let name = param.text()?;
        MODES.iter().find(|(_, _, known)| known.to_bytes() == name.as_bytes())
    } else {
        let number = param.integer()?;
        MODES.iter().find(|(_, known, _)| i64::from(*known) == number)
    };
    match found {
        Some((mode, _, _)) => Ok(*mode),
        None => bail!(PaddingUnsupported, "for signatures it is pkcs1, pss or none"),
    }
}

impl Provider {
    /// What OpenSSL of this version takes for the salt length where nobody says one.
    fn default_salt(&self) -> i32 {
        if self.version >= (3, 1) { mechanism::SALT_AUTO_DIGEST_MAX } else { mechanism::SALT_AUTO }
    }
}
