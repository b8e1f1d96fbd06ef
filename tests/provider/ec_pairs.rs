//! Which two objects are one EC key: AWS's halves have no id and different labels, and the HSM says the point on the public one only.

use hsmkey::error::Reason;
use hsmkey::keyfile;
use hsmkey::spki::spki_to_public;
use hsmkey::uri::Uri;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};

use crate::support::{Hsm, Key, Program};

fn fresh() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// A pointer file with a public key that may be any.
fn pointer(hsm: &Hsm, uri: &str, public: &PKey<Private>, name: &str) -> String {
    let public = Some(spki_to_public(&public.public_key_to_der().unwrap()).unwrap());
    let uri = Uri { public, ..Uri::parse(uri.as_bytes()).unwrap() };
    hsm.token.write(name, keyfile::write_pointer(&uri).unwrap())
}

fn sign(hsm: &Hsm, name: &str) -> Program {
    hsm.recorder.reset();
    hsm.openssl(["dgst", "-sha256", "-sign", name, "-out", "signature", "document"])
}

/// Signs, verifies without hsmkey, and says what it cost.
#[track_caller]
fn requests(hsm: &Hsm, name: &str, key: &Key) -> u64 {
    sign(hsm, name).succeeds();
    let counts = hsm.recorder.counts();
    let verify = ["dgst", "-sha256", "-verify", &key.public_file, "-signature", "signature", "document"];
    Program::stock_openssl(verify).current_dir(hsm.token.directory()).succeeds();
    counts.requests()
}

#[track_caller]
fn refused(hsm: &Hsm, name: &str, reason: Reason) {
    let outcome = sign(hsm, name).fails();
    assert!(outcome.stderr.contains(reason.text()), "{} is not among the causes: {outcome}", reason.name());
}

#[test]
fn what_a_signature_costs_depends_on_how_its_key_is_known() {
    // Open a session, log in, search (3), sign (2): what proves the pair is the signature itself.
    let by_file = 7;
    let bare = Hsm::new();
    bare.token.write("document", "some octets");
    let key = bare.import_ec("prime256v1", "one");
    assert_eq!(requests(&bare, &key.file, &key), by_file);
    // The private object's attributes, the search for the public one of its id, its attributes.
    assert_eq!(requests(&bare, &key.uri, &key), by_file + 1 + 3 + 1);

    let aws = Hsm::cloudhsm();
    aws.token.write("document", "some octets");
    let key = aws.import_ec("prime256v1", "one");
    assert_eq!(requests(&aws, &key.file, &key), by_file);
    // The private object's attributes, the search for its label, the search for its curve, one candidate, a signature over a text.
    assert_eq!(requests(&aws, &key.uri, &key), by_file + 1 + 3 + 3 + 1 + 2);
    // A pointer file without the public key is a URI in a file.
    let plain = aws.token.write("plain.key", keyfile::write_pointer(&key.uri.parse().unwrap()).unwrap());
    assert_eq!(requests(&aws, &plain, &key), by_file + 10);

    // The label of both halves, as others make them.
    let same = Hsm::cloudhsm();
    same.token.write("document", "some octets");
    let key = same.import_ec("prime256v1", "one");
    same.token.import_halves(&key.software, "both", "both");
    let both = key.uri.replace("object=one", "object=both");
    assert_eq!(requests(&same, &both, &key), by_file + 1 + 3 + 1 + 2);

    // Where the token says the point on the private object.
    let says = Hsm::cloudhsm_with("ec_point_on_private = on");
    says.token.write("document", "some octets");
    let key = says.import_ec("prime256v1", "one");
    says.token.import_to_derive(&key.software, "with-id", "77");
    let with_id = key.uri.replace("object=one", "object=with-id");
    assert_eq!(requests(&says, &with_id, &key), by_file + 1);
}

#[test]
fn further_signatures_cost_two_requests_each() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_ec("secp384r1", "counted");
        for way in ["fresh", "duplicated", "oneshot"] {
            let sign = |count: &str| {
                hsm.recorder.reset();
                hsm.program(crate::support::c_program("signer"), [way, &key.file, count]).succeeds();
                hsm.recorder.counts()
            };
            let (one, eleven) = (sign("1"), sign("11"));
            assert_eq!(
                (one.requests(), eleven.requests(), eleven.calls() - one.calls()),
                (7, 27, 20),
                "{way}"
            );
        }
    }
}

#[test]
fn an_ec_key_file_is_loaded_compared_and_shown_without_the_hsm() {
    let hsm = Hsm::cloudhsm();
    let key = hsm.import_ec("prime256v1", "loaded");
    let certificate = ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=x", "-out", "x.pem"];
    Program::stock_openssl(certificate).current_dir(hsm.token.directory()).succeeds();
    hsm.recorder.reset();
    hsm.program(crate::support::c_program("signer"), ["check", &key.file, "x.pem"]).succeeds();
    let public = hsm.openssl(["pkey", "-in", &key.file, "-pubout"]).succeeds();
    assert_eq!(public.stdout, std::fs::read(&key.public_file).unwrap());
    assert_eq!(hsm.recorder.processes(), 0);
}

#[test]
fn keys_of_one_label_are_told_apart_by_a_signature() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        hsm.token.write("document", "some octets");
        let mut keys = Vec::new();
        for number in 0..3 {
            let key = hsm.import_ec("prime256v1", "twin");
            let file = hsm.token.write(&format!("twin{number}.key"), std::fs::read(&key.file).unwrap());
            let spki = std::fs::read(&key.public_file).unwrap();
            keys.push(Key { file, public_file: hsm.token.write(&format!("twin{number}.pub"), spki), ..key });
        }
        // Of another curve, so it is not even asked.
        hsm.import_ec("secp256k1", "twin");
        let mut costs: Vec<u64> = keys.iter().map(|key| requests(&hsm, &key.file, key)).collect();
        costs.sort_unstable();
        // Two requests for each that is asked, in whatever order the token lists them.
        assert_eq!(costs, [9, 11, 13]);
        refused(&hsm, &keys[0].uri, Reason::KeyAmbiguous);
        let stranger = pointer(&hsm, &keys[0].uri, &fresh(), "stranger.key");
        refused(&hsm, &stranger, Reason::KeyMismatch);
    }
}

#[test]
fn a_key_that_is_not_the_one_of_the_file_signs_nothing() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        hsm.token.write("document", "some octets");
        let (key, other) = (hsm.import_ec("prime256v1", "mine"), hsm.import_ec("prime256v1", "other"));
        let swapped = pointer(&hsm, &key.uri, &other.software, "swapped.key");
        refused(&hsm, &swapped, Reason::KeyMismatch);
        let curve = hsm.import_ec("secp384r1", "curve");
        let swapped = pointer(&hsm, &key.uri, &curve.software, "curve.key");
        refused(&hsm, &swapped, Reason::KeyMismatch);
        let absent = pointer(&hsm, &key.uri.replace("mine", "absent"), &key.software, "absent.key");
        refused(&hsm, &absent, Reason::KeyNotFound);
        // ECDH has no signature: the key shows its point.
        let derive =
            |name: &str| hsm.openssl(["pkeyutl", "-derive", "-inkey", name, "-peerkey", &other.public_file]);
        let swapped = pointer(&hsm, &key.uri, &other.software, "swapped.key");
        let outcome = derive(&swapped).fails();
        assert!(outcome.stderr.contains(Reason::KeyMismatch.text()), "{outcome}");
        derive(&key.file).succeeds();
        // A name that is no key's own finds it among all.
        let unnamed =
            pointer(&hsm, &format!("pkcs11:token={}", hsm.token_label), &other.software, "unnamed.key");
        requests(&hsm, &unnamed, &other);
    }
}

#[test]
fn a_public_key_of_somebody_else_is_no_half_of_the_key() {
    let hsm = Hsm::cloudhsm();
    hsm.token.write("document", "some octets");
    // A private key whose public half is not there, and many that are not it: with its label, and on its curve.
    let lonely = fresh();
    hsm.token.import_halves(&lonely, "lonely", "");
    hsm.token.import_halves(&fresh(), "", "lonely");
    for number in 0..3 {
        hsm.import_ec("prime256v1", &format!("other{number}"));
    }
    let uri = format!("pkcs11:token={};object=lonely;type=private", hsm.token_label);
    refused(&hsm, &uri, Reason::KeyUnsupported);
    // A listing goes on without it.
    let uri = format!("pkcs11:token={};type=private", hsm.token_label);
    let listed = hsm.openssl(["storeutl", "-noout", "-keys", &uri]).succeeds();
    assert!(listed.text().ends_with("Total found: 3\n"), "{listed}");
    // With its public half in the file it signs.
    let file = pointer(&hsm, "pkcs11:object=lonely", &lonely, "lonely.key");
    sign(&hsm, &file).succeeds();
}
