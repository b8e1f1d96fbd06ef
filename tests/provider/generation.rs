//! `openssl genpkey` makes a key in the HSM where it is told to, and nowhere else.

use hsmkey::error::Reason;

use crate::support::{Hsm, Program};

/// `openssl genpkey` with hsmkey's key manager.
fn genpkey(hsm: &Hsm, options: &[&str]) -> Program {
    hsm.openssl([&["genpkey", "-propquery", "provider=hsmkey"], options].concat())
}

/// The attributes that pkcs11-tool shows for the private key of a label.
fn shown(hsm: &Hsm, label: &str) -> String {
    let listing = hsm.token.pkcs11_tool(["--list-objects", "--type", "privkey", "--label", label]);
    listing.succeeds().text().to_owned()
}

/// Signs with a key, and verifies with stock OpenSSL.
fn signs(hsm: &Hsm, key: &str, digest: &str, options: &[&str]) {
    hsm.token.write("document", "some octets");
    let sign = [&["dgst", digest, "-sign", key, "-out", "signature"], options, &["document"]].concat();
    hsm.openssl(sign).succeeds();
    hsm.openssl(["pkey", "-in", key, "-pubout", "-out", "made.pub"]).succeeds();
    let verify = ["dgst", digest, "-verify", "made.pub", "-signature", "signature"];
    let verify = Program::stock_openssl([&verify[..], options, &["document"]].concat());
    verify.current_dir(hsm.token.directory()).succeeds();
}

#[test]
fn genpkey_makes_an_rsa_key_and_its_key_file() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let uri = format!("pkcs11_uri:pkcs11:token={};object=made;id=%a7", hsm.token_label);
        let bits = ["-pkeyopt", "rsa_keygen_bits:3072", "-pkeyopt", "rsa_keygen_pubexp:65541"];
        let options = [&["-algorithm", "RSA", "-pkeyopt", &uri, "-out", "made.key"], &bits[..]].concat();
        genpkey(&hsm, &options).succeeds();
        assert_eq!(hsm.recorder.counts().get("calls.C_GenerateKeyPair"), 1);
        signs(&hsm, "made.key", "-sha1", &[]);
        signs(&hsm, &format!("pkcs11:token={};id=%a7", hsm.token_label), "-sha256", &[]);
        let text = Program::stock_openssl(["rsa", "-pubin", "-in", "made.pub", "-text", "-noout"]);
        let text = text.current_dir(hsm.token.directory()).succeeds();
        assert!(text.text().contains("(3072 bit)") && text.text().contains("65541"), "{text}");
        let shown = shown(&hsm, "made");
        assert!(shown.contains("a7") && shown.contains("sign"), "{shown}");
        assert!(!shown.contains("decrypt") && !shown.contains("unwrap"), "{shown}");
        assert!(shown.contains("sensitive") && shown.contains("never extractable"), "{shown}");
    }
}

#[test]
fn a_key_may_be_made_to_decrypt_or_to_leave() {
    let hsm = Hsm::new();
    let options = ["-algorithm", "RSA", "-pkeyopt", "pkcs11_uri:pkcs11:object=made", "-out", "made.key"];
    let usage = ["-pkeyopt", "pkcs11_key_usage:keyEncipherment", "-pkeyopt", "hsmkey_extractable:1"];
    genpkey(&hsm, &[&options[..], &usage].concat()).succeeds();
    let shown = shown(&hsm, "made");
    assert!(shown.contains("decrypt") && shown.contains("extractable"), "{shown}");
    assert!(!shown.contains("sign"), "{shown}");
}

#[test]
fn a_key_for_pss_signs_nothing_else() {
    let hsm = Hsm::new();
    let uri = "pkcs11_uri:pkcs11:object=made";
    genpkey(&hsm, &["-algorithm", "RSA-PSS", "-pkeyopt", uri, "-out", "made.key"]).succeeds();
    let key = "pkcs11:object=made;type=private";
    signs(&hsm, key, "-sha256", &["-sigopt", "rsa_padding_mode:pss"]);
    hsm.token.write("document", "some octets");
    let pkcs1 = ["dgst", "-sha256", "-sign", key, "-sigopt", "rsa_padding_mode:pkcs1", "document"];
    let outcome = hsm.openssl(pkcs1).fails();
    assert!(outcome.stderr.contains(Reason::PaddingUnsupported.text()), "{outcome}");
}

#[test]
fn without_a_name_for_it_no_key_is_made() {
    let hsm = Hsm::new();
    let outcome = genpkey(&hsm, &["-algorithm", "RSA"]).fails();
    assert!(outcome.stderr.contains("pkcs11_uri"), "{outcome}");
    genpkey(&hsm, &["-algorithm", "RSA", "-pkeyopt", "pkcs11_uri:pkcs11:token=test"]).fails();
    genpkey(&hsm, &["-algorithm", "RSA", "-pkeyopt", "pkcs11_uri:pkcs11:object=a;type=cert"]).fails();
    genpkey(&hsm, &["-algorithm", "RSA", "-pkeyopt", "pkcs11_key_usage:everything"]).fails();
    genpkey(&hsm, &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_pubexp:4"]).fails();
    assert_eq!(hsm.recorder.counts().calls(), 0);
    // Ordinary keys are the default provider's.
    let ordinary = hsm.openssl(["genpkey", "-algorithm", "RSA"]).succeeds();
    assert!(ordinary.text().starts_with("-----BEGIN PRIVATE KEY-----"));
    assert_eq!(hsm.recorder.counts().calls(), 0);
}

#[test]
fn a_label_that_is_taken_is_refused_and_making_a_key_is_never_repeated() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        hsm.import_rsa(2048, "taken");
        let outcome =
            genpkey(&hsm, &["-algorithm", "RSA", "-pkeyopt", "pkcs11_uri:pkcs11:object=taken"]).fails();
        assert!(outcome.stderr.contains(Reason::KeyAmbiguous.text()), "{outcome}");
        assert_eq!(hsm.recorder.counts().get("calls.C_GenerateKeyPair"), 0);
    }
    let hsm = Hsm::cloudhsm();
    hsm.recorder.control("device-error until-cleared on=C_GenerateKeyPair");
    let outcome = genpkey(&hsm, &["-algorithm", "RSA", "-pkeyopt", "pkcs11_uri:pkcs11:object=new"]).fails();
    assert!(outcome.stderr.contains("C_GenerateKeyPair"), "{outcome}");
    assert_eq!(hsm.recorder.counts().get("calls.C_GenerateKeyPair"), 1);
}

#[test]
fn who_wants_parameters_only_gets_no_key() {
    let hsm = Hsm::new();
    for curve in ["P-256", "P-384"] {
        let curve = format!("ec_paramgen_curve:{curve}");
        let parameters = ["-genparam", "-algorithm", "EC", "-pkeyopt", &curve];
        let software = Program::stock_openssl([&["genpkey"][..], &parameters].concat()).succeeds();
        for uri in [&[][..], &["-pkeyopt", "pkcs11_uri:pkcs11:object=made"]] {
            let made = genpkey(&hsm, &[&parameters[..], uri].concat()).succeeds();
            assert_eq!(made.text(), software.text());
        }
    }
    // Keys of the others have none.
    for algorithm in ["RSA", "RSA-PSS", "ED25519"] {
        let uri = ["-algorithm", algorithm, "-pkeyopt", "pkcs11_uri:pkcs11:object=made"];
        genpkey(&hsm, &[&["-genparam"][..], &uri].concat()).fails();
    }
    assert_eq!(hsm.recorder.counts().calls(), 0);
}
