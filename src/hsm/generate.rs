//! Making a key pair (PKCS#11 v2.40 section 5.13, C_GenerateKeyPair). It is tried once: after an error the key may be there.

use std::sync::Arc;

use cryptoki_sys::*;

use super::object::{self, Template};
use super::reach::Reach;
use super::recover::{Ladder, Trouble};
use super::rv::Failed;
use super::search::{self, Seen};
use super::visit::{Visit, address};
use super::{Authenticator, Hsm, Object, ObjectClass, Query};
use crate::error::{Error, Reason, Result};
use crate::uri::TokenAttributes;

/// A key pair that is to be. Its private half is sensitive and stays in the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Which token; none names the only one.
    pub token: TokenAttributes,
    /// CKA_LABEL of both halves. A label that a private key has already is refused.
    pub label: String,
    /// CKA_ID of both halves; empty leaves it to the token.
    pub id: Vec<u8>,
    /// What kind of key.
    pub kind: NewKeyKind,
    /// What it may be used for.
    pub usage: Usage,
    /// CKA_EXTRACTABLE: whether it may leave the token wrapped with another key.
    pub extractable: bool,
}

/// The kind of a key that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewKeyKind {
    /// CKM_RSA_PKCS_KEY_PAIR_GEN.
    Rsa {
        /// The length of the modulus.
        bits: u64,
        /// The public exponent, big-endian.
        exponent: Vec<u8>,
        /// Whether CKA_ALLOWED_MECHANISMS restricts it to RSASSA-PSS.
        pss_only: bool,
    },
    /// CKM_EC_KEY_PAIR_GEN.
    Ec {
        /// CKA_EC_PARAMS: DER of the curve's object identifier.
        params: Vec<u8>,
    },
    /// CKM_EC_EDWARDS_KEY_PAIR_GEN with Ed25519.
    Ed25519,
}

/// CKA_EC_PARAMS of Ed25519: id-Ed25519, RFC 8410 section 3.
const ED25519_PARAMS: &[u8] = &[6, 3, 0x2b, 0x65, 0x70];

/// What a key may be used for. What is not said is forbidden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CKA_SIGN, and CKA_VERIFY of the public half.
    pub sign: bool,
    /// CKA_DECRYPT, and CKA_ENCRYPT of the public half.
    pub decrypt: bool,
    /// CKA_DERIVE.
    pub derive: bool,
}

/// Makes the pair in the one token that is meant.
pub(super) fn generate(hsm: &Hsm, key: &NewKey, authenticator: &Arc<dyn Authenticator>) -> Result<Object> {
    let query = Query {
        token: key.token.clone(),
        class: Some(ObjectClass::PrivateKey),
        label: Some(key.label.clone()),
        ..Query::default()
    };
    let mut ladder = Ladder::new(hsm.settings().retry_time);
    let mut seen = Seen::default();
    loop {
        let visit = Visit::new(hsm, &query, authenticator, &ladder);
        match once(&visit, key, &mut seen) {
            Ok(object) => return Ok(object),
            Err(trouble) => {
                let rung = ladder.climb(trouble)?;
                search::rebuild(hsm, rung, &seen);
                seen.failures += 1;
            }
        }
    }
}

fn once(visit: &Visit, key: &NewKey, seen: &mut Seen) -> Result<Object, Trouble> {
    let mut reach = Reach::new(visit.hsm, visit.query, visit.ladder, seen)?;
    let Some(slot) = reach.one()? else {
        let detail = "name the token that is to have the key, as in pkcs11:token=LABEL;object=NAME";
        return Err(Error::new(Reason::TokenAmbiguous, detail).into());
    };
    let mut made = None;
    visit.slot(&slot, seen, |held, seen| {
        let session = held.handle();
        let login = visit.log_in(&slot, session, seen)?;
        let (found, login) = visit.find_private(&slot, session, login, seen)?;
        if !found.is_empty() {
            let detail = format!(
                "a private key in the HSM has the label {} already; take another, or write the key file of that one",
                key.label
            );
            return Err(Error::new(Reason::KeyAmbiguous, detail).into());
        }
        let (mechanism, mut public, mut private) = templates(key);
        let module = slot.module();
        let pair = object::generate_pair(module, session, mechanism, &mut public, &mut private);
        let pair = pair.map_err(|failed| Trouble::Unclear(failed, refusal(&key.kind, failed)))?;
        let generated = visit.generated(&slot, session, pair, reach.epoch(), login);
        // Not to be repeated from the beginning.
        made = Some(generated.map_err(|trouble| {
            let named = address(visit.query);
            let detail = format!("the key {named} was made; what it is could not be asked for afterwards");
            let error = Error::new(Reason::HsmUnavailable, detail);
            match trouble {
                Trouble::Call(failed) => Trouble::Unclear(failed, error),
                _ => error.into(),
            }
        })?);
        Ok(())
    })?;
    made.ok_or_else(|| Error::from(Reason::Internal).into())
}

/// What is said of a pair that the HSM does not make.
fn refusal(kind: &NewKeyKind, failed: Failed) -> Error {
    let of_template = [CKR_TEMPLATE_INCONSISTENT, CKR_ATTRIBUTE_TYPE_INVALID].contains(&failed.rv);
    if of_template && matches!(kind, NewKeyKind::Rsa { pss_only: true, .. }) {
        let detail =
            "it does not restrict keys to PSS (CKA_ALLOWED_MECHANISMS); any RSA key signs with PSS as well";
        return Error::new(Reason::HsmCall, detail).with_call(failed.call());
    }
    failed.error()
}

/// The mechanism, and the attributes of the public and of the private half (PKCS#11 v2.40 sections 4.9 and 4.10; mechanisms,
/// sections 2.1.2, 2.1.3 and 2.3.3).
///
/// CloudHSM wants an RSA key's length and exponent in the public template alone; with either in the private one it makes a key that can
/// do nothing. The public half's CKA_PRIVATE is the HSM's own default, because CloudHSM allows no other. What a key may not
/// do is said, because SoftHSM2's default is that it may.
fn templates(key: &NewKey) -> (CK_MECHANISM_TYPE, Template, Template) {
    let Usage { sign, decrypt, derive } = key.usage;
    // In place: of two templates that are built by value rustc 1.95 puts the second where the first was freed (rust-lang/rust issue
    // 155241; tests/optimized.rs).
    let (mut public, mut private) = (Template::default(), Template::default());
    for template in [&mut public, &mut private] {
        template.add(CKA_LABEL, key.label.as_bytes());
        template.add(CKA_ID, &key.id);
        template.add_boolean(CKA_TOKEN, true);
    }
    for (attribute, value) in [(CKA_VERIFY, sign), (CKA_ENCRYPT, decrypt), (CKA_WRAP, false)] {
        public.add_boolean(attribute, value);
    }
    for (attribute, value) in [
        (CKA_PRIVATE, true),
        (CKA_SENSITIVE, true),
        (CKA_EXTRACTABLE, key.extractable),
        (CKA_SIGN, sign),
        (CKA_DECRYPT, decrypt),
        (CKA_UNWRAP, false),
    ] {
        private.add_boolean(attribute, value);
    }
    let mechanism = match &key.kind {
        NewKeyKind::Rsa { bits, exponent, pss_only } => {
            public.add(CKA_MODULUS_BITS, &(*bits as CK_ULONG).to_ne_bytes());
            public.add(CKA_PUBLIC_EXPONENT, exponent);
            if *pss_only {
                let mechanisms = object::PSS_MECHANISMS.map(CK_ULONG::to_ne_bytes);
                private.add(CKA_ALLOWED_MECHANISMS, &mechanisms.concat());
            }
            CKM_RSA_PKCS_KEY_PAIR_GEN
        }
        NewKeyKind::Ec { params } => {
            public.add(CKA_EC_PARAMS, params);
            private.add_boolean(CKA_DERIVE, derive);
            CKM_EC_KEY_PAIR_GEN
        }
        NewKeyKind::Ed25519 => {
            public.add(CKA_EC_PARAMS, ED25519_PARAMS);
            CKM_EC_EDWARDS_KEY_PAIR_GEN
        }
    };
    (mechanism, public, private)
}
