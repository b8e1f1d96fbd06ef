//! Which public half belongs to an elliptic private key.
//!
//! PKCS#11 v2.40 has CKA_EC_POINT on the public object only, and nothing that ties the two objects together: a CKA_ID may be empty and
//! the labels may differ, as they do on a CloudHSM. So a pair that no id makes is proven: the private key signs a text of ours, and a
//! candidate verifies it. A key that may not sign multiplies the curve's base point, which gives the public point itself.

use std::collections::HashMap;

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::held::Held;
use super::module::Module;
use super::object::{self, Attributes, Template};
use super::recover::Trouble;
use super::sign::{Operation, Request};
use super::visit::Visit;
use crate::curve::Curve;
use crate::error::{Error, Reason, Result};
use crate::mechanism::Mechanism;
use crate::public::PublicKey;

/// Verifies signatures. It knows nothing of PKCS#11, and PKCS#11 nothing of it.
pub trait Verifier: Send + Sync {
    /// Whether a signature as the HSM makes it is one by this key: r and s, one after the other, over `input` as a digest for
    /// [`PublicKey::Ec`]; 64 octets over `input` as the message for [`PublicKey::Ed25519`].
    ///
    /// # Errors
    /// Where it cannot be told.
    fn verifies(&self, key: &PublicKey, input: &[u8], signature: &[u8]) -> Result<bool>;
}

/// What is signed for a proof. It is no digest of anything, and says to whoever finds a signature over it what it was for.
const TEXT: &[u8; 32] = b"hsmkey: are these two one key?  ";

/// The most public keys that are read for a private one.
const MOST_READ: usize = 1000;
/// The most private keys that sign for a public one.
const MOST_ASKED: usize = 64;

/// The type of an elliptic key, as a search has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Elliptic {
    /// CKK_EC, with its CKA_EC_PARAMS.
    Ec(Vec<u8>),
    /// CKK_EC_EDWARDS. Tokens differ in how they write the curve, so it is not searched for.
    Ed25519,
}

impl Elliptic {
    /// The type of a public key; `None` for RSA.
    pub(super) fn of(key: &PublicKey) -> Option<Self> {
        match key {
            PublicKey::Rsa(_) => None,
            PublicKey::Ec(key) => Some(Elliptic::Ec(key.params.clone())),
            PublicKey::Ed25519(_) => Some(Elliptic::Ed25519),
        }
    }

    /// A template for keys of the type.
    pub(super) fn restrict(&self, template: Template) -> Template {
        match self {
            Elliptic::Ec(params) => {
                template.number(CKA_KEY_TYPE, CKK_EC).octets(CKA_EC_PARAMS, params.as_slice())
            }
            Elliptic::Ed25519 => template.number(CKA_KEY_TYPE, CKK_EC_EDWARDS),
        }
    }

    fn curve(&self) -> Option<&'static Curve> {
        match self {
            Elliptic::Ec(params) => Curve::by_params(params),
            Elliptic::Ed25519 => None,
        }
    }
}

/// What a private key has shown of itself.
enum Proof {
    /// Its signature over the text.
    Signature(Vec<u8>),
    /// The X of its public point.
    X(Zeroizing<Vec<u8>>),
}

impl Proof {
    /// Asks a private key; `None` where it may neither sign nor derive, or is on an unknown curve.
    fn of(held: &mut Held, key: CK_OBJECT_HANDLE, elliptic: &Elliptic) -> Result<Option<Self>, Trouble> {
        let module = held.module();
        let (mechanism, size) = match (elliptic, elliptic.curve()) {
            (Elliptic::Ed25519, _) => (Mechanism::EdDsa, 64),
            (Elliptic::Ec(_), Some(curve)) => (Mechanism::Ecdsa, 2 * curve.size()),
            (Elliptic::Ec(_), None) => return Ok(None),
        };
        let mut signature = vec![0; size];
        let mut request = Request::new(Operation::Sign, &mechanism, &mut signature);
        request.about(TEXT);
        let signed = request.run(module, held.handle(), key);
        if let Some(length) = permitted(signed, held)? {
            signature.truncate(length);
            return Ok(Some(Proof::Signature(signature)));
        }
        let Some(curve) = elliptic.curve() else { return Ok(None) };
        let session = held.handle();
        let derived =
            object::derive(module, session, key, curve.generator, curve.size(), &mut held.secret_stays);
        Ok(permitted(derived, held)?.map(Proof::X))
    }

    /// Whether this is the public half.
    fn is_by(&self, public: &PublicKey, verifier: &dyn Verifier) -> Result<bool> {
        match (self, public) {
            (Proof::Signature(signature), _) => verifier.verifies(public, TEXT, signature),
            (Proof::X(x), PublicKey::Ec(key)) => Ok(key.point.get(1..=x.len()) == Some(x.as_slice())),
            (Proof::X(_), _) => Ok(false),
        }
    }
}

/// What was done; `None` where the key may not do it, whichever call says so.
fn permitted<T>(done: Result<T, Trouble>, held: &mut Held) -> Result<Option<T>, Trouble> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(Trouble::Call(failed))
            if matches!(
                failed.rv,
                CKR_KEY_FUNCTION_NOT_PERMITTED | CKR_KEY_TYPE_INCONSISTENT | CKR_MECHANISM_INVALID
            ) =>
        {
            held.go_on(failed)?;
            Ok(None)
        }
        Err(trouble) => Err(trouble),
    }
}

/// Fails where a private key, which may derive, is not that of a public one.
pub(super) fn prove_by_deriving(
    module: &Module,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    public: &PublicKey,
    stays: &mut bool,
) -> Result<(), Trouble> {
    let PublicKey::Ec(ec) = public else { return Ok(()) };
    let curve = ec.curve()?;
    let x = object::derive(module, session, key, curve.generator, curve.size(), stays)?;
    if ec.point[1..=curve.size()] == x[..] { Ok(()) } else { Err(Error::from(Reason::KeyMismatch).into()) }
}

impl Visit<'_> {
    /// The public half of a private key that does not say it, and whether that was proven: the public key of the same id where ids are
    /// `trusted`, else a proven one of the same id, of the same label, of the same type.
    pub(super) fn public_half(
        &self,
        held: &mut Held,
        key: CK_OBJECT_HANDLE,
        attributes: &Attributes,
        trusted: bool,
    ) -> Result<Option<(PublicKey, bool)>, Trouble> {
        let Some(elliptic) = &attributes.elliptic else { return Ok(None) };
        let all = || elliptic.restrict(Template::class(CKO_PUBLIC_KEY));
        let mut searches = Vec::new();
        if !attributes.id.is_empty() {
            searches.push((all().octets(CKA_ID, &attributes.id), true));
        }
        if !attributes.label.is_empty() {
            searches.push((all().octets(CKA_LABEL, attributes.label.as_bytes()), false));
        }
        searches.push((all(), false));

        let (mut proof, mut seen) = (None, Vec::new());
        for (mut template, ids_are_equal) in searches {
            let found = object::find(held.module(), held.handle(), &mut template)?;
            let only = trusted && found.len() == 1;
            for candidate in found.into_iter().take(MOST_READ) {
                if seen.contains(&candidate) {
                    continue;
                }
                seen.push(candidate);
                let public = self.public_key(held, candidate)?;
                let Some(public) = public.filter(|public| public.is_of(elliptic)) else { continue };
                if ids_are_equal && only {
                    return Ok(Some((public, false)));
                }
                let Some(verifier) = self.hsm.verifier() else { continue };
                if proof.is_none() {
                    proof = Proof::of(held, key, elliptic)?;
                }
                // Who shows nothing has no pair that could be found.
                let Some(proof) = &proof else { return Ok(None) };
                if proof.is_by(&public, verifier)? {
                    return Ok(Some((public, true)));
                }
            }
        }
        Ok(None)
    }

    /// Proves those private keys that have one public half by their ids: several may have one id, and then it is not the half of all of
    /// them. Whoever has nothing to verify with leaves them as they are.
    pub(super) fn tell_apart(
        &self,
        held: &mut Held,
        read: &mut [(CK_OBJECT_HANDLE, Attributes, bool)],
    ) -> Result<(), Trouble> {
        let mut halves = HashMap::new();
        for (_, attributes, _) in read.iter() {
            *halves.entry(attributes.public.clone()).or_insert(0) += 1;
        }
        for (handle, attributes, proven) in read {
            let is_shared = attributes.public.is_some() && halves.get(&attributes.public) > Some(&1);
            if is_shared && !*proven && self.hsm.verifier().is_some() {
                let half = self.public_half(held, *handle, attributes, false)?;
                (attributes.public, *proven) = half.map_or((None, false), |(half, _)| (Some(half), true));
            }
        }
        Ok(())
    }

    /// A public key, read once in a visit however many private ones it is held against.
    fn public_key(&self, held: &Held, object: CK_OBJECT_HANDLE) -> Result<Option<PublicKey>, Trouble> {
        if let Some(known) = self.public_keys.borrow().get(&object) {
            return Ok(known.clone());
        }
        let public = object::read(held.module(), held.handle(), object, CKO_PUBLIC_KEY)?.public;
        self.public_keys.borrow_mut().insert(object, public.clone());
        Ok(public)
    }

    /// Which of several private keys of one type has this public half.
    pub(super) fn private_half(
        &self,
        held: &mut Held,
        candidates: &[CK_OBJECT_HANDLE],
        public: &PublicKey,
        verifier: &dyn Verifier,
    ) -> Result<Option<CK_OBJECT_HANDLE>, Trouble> {
        let Some(elliptic) = Elliptic::of(public) else { return Ok(None) };
        for candidate in candidates.iter().copied().take(MOST_ASKED) {
            let proof = Proof::of(held, candidate, &elliptic)?;
            if proof.map_or(Ok(false), |proof| proof.is_by(public, verifier))? {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }
}

impl PublicKey {
    /// Whether it is of the type, and one that can be used.
    fn is_of(&self, elliptic: &Elliptic) -> bool {
        let usable = match self {
            PublicKey::Ec(ec) => ec.curve().is_ok(),
            _ => true,
        };
        usable && Elliptic::of(self).as_ref() == Some(elliptic)
    }
}
