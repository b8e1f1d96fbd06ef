//! An EC key is proven to be the one that is meant, once for every time that it was found.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism as CreatePair;
use cryptoki::object::{Attribute, AttributeType};
use cryptoki::session::UserType;
use cryptoki::types::RawAuthPin;
use hsmkey::curve::Curve;
use hsmkey::error::{Reason, Result};
use hsmkey::hsm::{Hsm, Object, PrivateKey, Query, Verifier};
use hsmkey::key::distinct;
use hsmkey::mechanism::Mechanism;
use hsmkey::public::{EcPublicKey, PublicKey};
use hsmkey::spki::{public_to_spki, spki_to_public};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};

use crate::scenario::*;
use crate::support::Recorder;

/// Verifies with the test's own OpenSSL, and counts.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Verifier for Counting {
    fn verifies(&self, key: &PublicKey, input: &[u8], signature: &[u8]) -> Result<bool> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(verifies(key, input, signature))
    }
}

impl Counting {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn verifies(key: &PublicKey, digest: &[u8], signature: &[u8]) -> bool {
    let key = PKey::public_key_from_der(&public_to_spki(key)).unwrap().ec_key().unwrap();
    let (r, s) = signature.split_at(signature.len() / 2);
    let number = |octets: &[u8]| BigNum::from_slice(octets).unwrap();
    EcdsaSig::from_private_components(number(r), number(s)).unwrap().verify(digest, &key).unwrap()
}

fn public(inside: &Inside, label: &str) -> PublicKey {
    spki_to_public(&inside.public(label).public_key_to_der().unwrap()).unwrap()
}

fn key_file(inside: &Inside, name: &str, public_of: &str) -> Query {
    Query { public: Some(public(inside, public_of)), ..labelled(name) }
}

fn signs(key: &PrivateKey, public: &PublicKey) {
    let mut output = [0; 64];
    let length = key.sign(&Mechanism::Ecdsa, &[7; 32], &mut output).unwrap_or_else(|error| panic!("{error}"));
    assert!(length == 64 && verifies(public, &[7; 32], &output));
}

#[test]
fn the_first_signature_is_verified_and_after_a_loss_the_next() {
    scenario(
        CLOUDHSM,
        |hsm| drop(hsm.import_ec("prime256v1", "signing")),
        |inside| {
            let counting = Arc::new(Counting::default());
            let hsm = Hsm::verified_by(inside.settings(), counting.clone());
            let key = hsm.key(key_file(inside, "signing", "signing"), inside.auth());
            let public = public(inside, "signing");
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..10).for_each(|_| signs(&key, &public)));
                }
            });
            // Threads that begin together may each verify their first.
            assert!((1..=4).contains(&counting.count()), "{}", counting.count());
            for (loss, verified) in [
                ("session-lost on=C_SignInit once", 0),
                ("handles-changed on=C_SignInit once", 1),
                ("login-lost on=C_SignInit once", 1),
                ("not-initialized on=C_SignInit once", 1),
            ] {
                let before = counting.count();
                inside.control(loss);
                (0..3).for_each(|_| signs(&key, &public));
                inside.control("");
                (0..3).for_each(|_| signs(&key, &public));
                assert_eq!(counting.count() - before, verified, "{loss}");
            }
        },
    );
}

#[test]
fn a_signature_that_does_not_verify_is_given_to_nobody() {
    scenario(
        CLOUDHSM,
        |hsm| {
            hsm.import_ec("prime256v1", "signing");
            hsm.import_ec("prime256v1", "other");
        },
        |inside| {
            let hsm = Hsm::verified_by(inside.settings(), Arc::new(Counting::default()));
            let key = hsm.key(key_file(inside, "signing", "other"), inside.auth());
            for _ in 0..2 {
                let mut output = [0; 64];
                let error = key.sign(&Mechanism::Ecdsa, &[7; 32], &mut output).unwrap_err();
                assert_eq!((error.reason(), output), (Reason::KeyMismatch, [0; 64]), "{error}");
            }
            // The point that it derives with the base point is another's, too; nothing has to be verified for that.
            let key = inside.hsm().key(key_file(inside, "signing", "other"), inside.auth());
            let PublicKey::Ec(peer) = public(inside, "other") else { unreachable!() };
            assert_eq!(key.derive(&peer.point, 32).unwrap_err().reason(), Reason::KeyMismatch);
            let key = inside.hsm().key(key_file(inside, "signing", "signing"), inside.auth());
            assert_eq!(key.derive(&peer.point, 32).unwrap().len(), 32);
        },
    );
}

#[test]
fn without_a_verifier_several_keys_are_ambiguous_and_have_no_public_half() {
    scenario(
        CLOUDHSM,
        |hsm| {
            hsm.import_ec("prime256v1", "twin");
            hsm.import_ec("prime256v1", "twin");
        },
        |inside| {
            let (hsm, auth) = (inside.hsm(), inside.auth());
            let key = hsm.key(key_file(inside, "twin", "twin"), auth.clone());
            let error = key.sign(&Mechanism::Ecdsa, &[7; 32], &mut [0; 64]).unwrap_err();
            assert_eq!(error.reason(), Reason::KeyAmbiguous, "{error}");
            let listed = hsm.list(&labelled("twin"), &auth).unwrap();
            assert_eq!(listed.iter().map(|object| &object.public).collect::<Vec<_>>(), [&None, &None]);
            let verified = Hsm::verified_by(inside.settings(), Arc::new(Counting::default()));
            signs(&verified.key(key_file(inside, "twin", "twin"), auth.clone()), &public(inside, "twin"));
            let listed = verified.list(&labelled("twin"), &auth).unwrap();
            assert!(
                listed.iter().all(|object| object.public.is_some()) && listed[0].public != listed[1].public
            );
        },
    );
}

#[test]
fn a_key_that_is_refused_in_the_middle_of_a_proof_spoils_no_other_signature() {
    scenario(
        CLOUDHSM,
        |hsm| {
            hsm.import_ec("prime256v1", "twin");
            hsm.import_ec("prime256v1", "twin");
        },
        |inside| {
            let (hsm, auth) =
                (Hsm::verified_by(inside.settings(), Arc::new(Counting::default())), inside.auth());
            let key = || hsm.key(key_file(inside, "twin", "twin"), auth.clone());
            signs(&key(), &public(inside, "twin"));
            for code in ["0x68", "0x63", "0x70"] {
                let opened = inside.count("calls.C_OpenSession");
                // As where C_SignInit does not ask the HSM about the key. It shows its point instead.
                inside.control(&format!("error on=C_Sign once begun code={code}"));
                let listed = hsm.list(&labelled("twin"), &auth).unwrap();
                let publics: Vec<_> = listed.iter().map(|object| object.public.clone()).collect();
                assert!(
                    publics.len() == 2 && !publics.contains(&None) && publics[0] != publics[1],
                    "{publics:?}"
                );
                inside.control(&format!("error on=C_Sign once begun code={code}"));
                signs(&key(), &public(inside, "twin"));
                assert_eq!(inside.count("traps"), 0, "{code}");
                assert_eq!(inside.count("calls.C_OpenSession") - opened, 2, "{code}");
            }
            // Nothing is begun where both calls refuse it at once.
            let opened = inside.count("calls.C_OpenSession");
            inside.control("error on=C_SignInit,C_DeriveKey times=2 code=0x68");
            let listed = hsm.list(&labelled("twin"), &auth).unwrap();
            assert_eq!(listed.iter().filter(|object| object.public.is_none()).count(), 1);
            assert_eq!(inside.count("calls.C_OpenSession"), opened);
        },
    );
}

#[test]
fn a_session_in_which_a_secret_stays_is_closed() {
    scenario(
        CLOUDHSM,
        |hsm| drop(hsm.import_ec("prime256v1", "signing")),
        |inside| {
            let key = inside.hsm().key(key_file(inside, "signing", "signing"), inside.auth());
            let PublicKey::Ec(peer) = public(inside, "signing") else { unreachable!() };
            let closed = || {
                key.derive(&peer.point, 32).unwrap();
                inside.count("calls.C_OpenSession") - 1
            };
            assert_eq!(closed(), 0);
            for (number, code) in (1..).zip(["0x6", "0x54"]) {
                inside.control(&format!("error on=C_DestroyObject once code={code}"));
                assert_eq!((closed(), closed()), (number - 1, number), "{code}");
            }
            // It is gone already.
            inside.control("error on=C_DestroyObject once code=0x82");
            assert_eq!((closed(), closed()), (2, 2));
            // The proof of a new key file's derives too.
            let key = inside.hsm().key(key_file(inside, "signing", "signing"), inside.auth());
            inside.control("error on=C_DestroyObject once code=0x6");
            key.derive(&peer.point, 32).unwrap();
            key.derive(&peer.point, 32).unwrap();
            assert_eq!(inside.count("calls.C_OpenSession"), 4);
            assert_eq!(inside.count("calls.C_CloseSession"), 3);
        },
    );
}

#[test]
fn an_id_that_two_private_keys_share_makes_no_pair_of_the_other() {
    scenario(
        CLOUDHSM,
        |hsm| {
            let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
            // A pair, its private half once more, and the private half of another pair under the same name.
            let [pair, other] =
                [(); 2].map(|()| PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap());
            let private = |key: &PKey<Private>| {
                let file = hsm.token.write("import", key.private_key_to_pem_pkcs8().unwrap());
                let write = ["--write-object", &file, "--type", "privkey", "--usage-sign"];
                hsm.token
                    .pkcs11_tool([&write[..], &["--label", "signing", "--id", "c0"]].concat())
                    .succeeds();
            };
            private(&other);
            hsm.token.import(&pair, "signing", "c0");
            private(&pair);
            hsm.token.write("signing.pub", pair.public_key_to_pem().unwrap());
        },
        |inside| {
            let (public, auth) = (public(inside, "signing"), inside.auth());
            let halves = |objects: &[Object]| {
                let mut halves: Vec<_> =
                    objects.iter().map(|object| (object.public.is_some(), object.is_proven())).collect();
                assert!(
                    objects.iter().filter_map(|object| object.public.as_ref()).all(|half| *half == public)
                );
                halves.sort_unstable();
                halves
            };
            let hsm = Hsm::verified_by(inside.settings(), Arc::new(Counting::default()));
            let listed = hsm.list(&labelled("signing"), &auth).unwrap();
            assert_eq!(halves(&listed), [(false, false), (true, true), (true, true)]);
            let left = distinct(listed);
            assert_eq!(halves(&left), [(false, false), (true, true)]);
            let key = left.iter().find(|object| object.is_proven()).and_then(Object::private_key).unwrap();
            signs(&key, &public);
            // Without a verifier nobody can tell, and none is left out for another.
            let listed = inside.hsm().list(&labelled("signing"), &auth).unwrap();
            assert_eq!(halves(&listed), [(true, false); 3]);
            assert_eq!(distinct(listed).len(), 3);
        },
    );
}

/// An EC key pair whose private half may derive and not sign, without ids and with two labels. SoftHSM2's tools make none.
fn generate_deriving(label: &str, pin: &[u8]) -> EcPublicKey {
    let module = ManuallyDrop::new(Pkcs11::new(Recorder::module()).unwrap());
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let session = ManuallyDrop::new(module.open_rw_session(slot).unwrap());
    session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(pin.to_vec()))).unwrap();
    let curve = Curve::by_name("P-256").unwrap();
    let named = |label: &str| [Attribute::Token(true), Attribute::Label(label.as_bytes().to_vec())];
    let public =
        [&named(&format!("{label}_pub"))[..], &[Attribute::EcParams(curve.params.to_vec())]].concat();
    let usage = [Attribute::Private(true), Attribute::Sign(false), Attribute::Derive(true)];
    let private = [&named(label)[..], &usage].concat();
    let pair = session.generate_key_pair(&CreatePair::EccKeyPairGen, &public, &private);
    match &session.get_attributes(pair.unwrap().0, &[AttributeType::EcPoint]).unwrap()[..] {
        [Attribute::EcPoint(point)] => EcPublicKey::from_token(curve.params, point),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_that_may_derive_and_not_sign_shows_its_point() {
    scenario(
        CLOUDHSM,
        |hsm| drop(hsm.import_ec("prime256v1", "other")),
        |inside| {
            let pin = std::fs::read(inside.directory.join("pin")).unwrap();
            let made = generate_deriving("derives", &pin);
            let hsm = Hsm::verified_by(inside.settings(), Arc::new(Counting::default()));
            let listed = hsm.list(&labelled("derives"), &inside.auth()).unwrap();
            assert_eq!(listed.len(), 1);
            assert_eq!(listed[0].public, Some(PublicKey::Ec(made.clone())));
            let PublicKey::Ec(peer) = public(inside, "other") else { unreachable!() };
            let key = listed[0].private_key().unwrap();
            assert_eq!(key.derive(&peer.point, 32).unwrap().len(), 32);
            let error = key.sign(&Mechanism::Ecdsa, &[7; 32], &mut [0; 64]).unwrap_err();
            assert_eq!(error.reason(), Reason::KeyNotPermitted);
        },
    );
}
