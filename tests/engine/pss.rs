//! PSS by the engine: made by the HSM, and where that has no PSS, of a block that OpenSSL pads. What the policy on SHA-1 sees.

use hsmkey::error::Reason;
use hsmkey::keyfile;
use hsmkey::public::RsaPublicKey;
use openssl::rsa::Rsa;

use crate::programs::compiled;
use crate::signing::{configure, in_software, setting};
use crate::support::{Hsm, OpenSsl, Program};

const ENGINE: [&str; 4] = ["-engine", "hsmkey", "-keyform", "engine"];
const PSS: [&str; 4] = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:-1"];
const TAKES_FILES: [(&str, &str); 3] =
    [("hsmkey-reference-files", "engine"), ("default_algorithms", "RSA"), ("init", "0")];

/// An HSM with a key that may be used with these mechanisms alone, and its key file.
fn limited(mechanisms: &str) -> (Hsm, String) {
    let (hsm, _) = setting();
    let generate = ["--keypairgen", "--key-type", "rsa:2048", "--label", "limited"];
    hsm.token.pkcs11_tool([&generate[..], &["--allowed-mechanisms", mechanisms]].concat()).succeeds();
    let public = ["pkey", "-engine", "hsmkey", "-inform", "engine", "-pubin", "-in", "label_limited"];
    let public = hsm.openssl([&public[..], &["-pubout"]].concat()).succeeds().stdout;
    hsm.token.write("limited.pub", &public);
    let rsa = Rsa::public_key_from_pem(&public).unwrap();
    let public = RsaPublicKey::new(&rsa.n().to_vec(), &rsa.e().to_vec());
    let uri = "pkcs11:object=limited;type=private".parse().unwrap();
    let file = hsm.token.write("limited.key", keyfile::write_reference(&public, &uri).unwrap());
    (hsm, file)
}

fn sign(openssl: &OpenSsl, hsm: &Hsm, digest: &str, options: &[&str]) -> Program {
    let sign = ["dgst", digest, "-out", "signature"];
    openssl.with(hsm, [&sign, options, &["document"]].concat())
}

fn verify(hsm: &Hsm, digest: &str, options: &[&str]) {
    let verify = ["dgst", digest, "-verify", "limited.pub", "-signature", "signature"];
    in_software(hsm, &[&verify[..], options, &["document"]].concat());
}

#[test]
fn an_hsm_that_does_no_raw_rsa_makes_them() {
    let (hsm, file) = limited("RSA-PKCS-PSS");
    let by_id = [&["-sign", "label_limited"], &ENGINE[..]].concat();
    for openssl in OpenSsl::with_engines() {
        for digest in ["-sha1", "-sha256", "-sha512"] {
            for more in [&[][..], &["-sigopt", "rsa_pss_saltlen:5"], &["-sigopt", "rsa_pss_saltlen:-2"]] {
                let options = [&PSS, more].concat();
                sign(&openssl, &hsm, digest, &[&by_id[..], &options].concat()).succeeds();
                verify(&hsm, digest, &options);
            }
        }
        // It is OpenSSL's key for PSS only, which pads for nothing else.
        sign(&openssl, &hsm, "-sha256", &by_id).succeeds();
        verify(&hsm, "-sha256", &[&PSS[..2], &["-sigopt", "rsa_pss_saltlen:-2"]].concat());
        sign(&openssl, &hsm, "-sha256", &[&by_id[..], &["-sigopt", "rsa_padding_mode:pkcs1"]].concat())
            .fails();
        hsm.program(compiled(&openssl), ["pss", "label_limited", "limited.pub"]).succeeds();
    }
    // A reference key file's come to the engine as a block that is padded already.
    configure(&hsm, &TAKES_FILES);
    for openssl in OpenSsl::with_engines() {
        let failed = sign(&openssl, &hsm, "-sha256", &[&["-sign", &file], &PSS[..]].concat()).fails();
        assert!(failed.stderr.contains(Reason::MechanismUnsupported.text()), "{failed}");
    }
}

#[test]
fn an_hsm_that_has_no_pss_signs_the_padded_block() {
    let (hsm, file) = limited("RSA-PKCS,RSA-X-509");
    let by_id = [&["-sign", "label_limited"], &ENGINE[..], &PSS].concat();
    for openssl in OpenSsl::with_engines() {
        sign(&openssl, &hsm, "-sha256", &by_id).succeeds();
        verify(&hsm, "-sha256", &PSS);
        // With nothing on the error queue of what was tried first.
        hsm.program(compiled(&openssl), ["pss", "label_limited", "limited.pub"]).succeeds();
    }
    configure(&hsm, &TAKES_FILES);
    for openssl in OpenSsl::with_engines() {
        sign(&openssl, &hsm, "-sha256", &[&["-sign", &file], &PSS[..]].concat()).succeeds();
        verify(&hsm, "-sha256", &PSS);
    }
}

#[test]
fn the_policy_on_sha1_sees_every_padding_and_ecdsa() {
    let (hsm, _) = setting();
    hsm.import_ec("prime256v1", "ec");
    configure(&hsm, &[("hsmkey-sha1", "deny"), ("init", "0")]);
    for openssl in OpenSsl::with_engines() {
        for (name, options) in [("engine-key", &[][..]), ("engine-key", &PSS), ("label_ec", &[])] {
            let by_id = [&["-sign", name], &ENGINE[..], options].concat();
            sign(&openssl, &hsm, "-sha256", &by_id).succeeds();
            let failed = sign(&openssl, &hsm, "-sha1", &by_id).fails();
            assert!(failed.stderr.contains("hsmkey-sha1"), "{}: {failed}", openssl.version);
        }
    }
}
