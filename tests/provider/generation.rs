//! `openssl genpkey` makes a key in the HSM where it is told to, and nowhere else.

use hsmkey::error::Reason;

use crate::support::{Hsm, Program, repository};

/// `openssl genpkey` with hsmkey's key manager.
fn genpkey(hsm: &Hsm, options: &[&str]) -> Program {
    hsm.openssl([&["genpkey", "-propquery", "provider=hsmkey"], options].concat())
}

/// The attributes that pkcs11-tool shows for the private key of a label.
fn shown(hsm: &Hsm, label: &str) -> String {
    // Some versions of it list the others as well.
    let listing = hsm.token.pkcs11_tool(["--list-objects", "--type", "privkey"]).succeeds();
    let line = format!("  label:      {label}\n");
    let mut objects = listing.text().split("Private Key Object;").filter(|object| object.contains(&line));
    objects.next().expect("a key of that label").to_owned()
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
fn genpkey_makes_elliptic_keys_and_their_key_files() {
    for (hsm, edwards) in [(Hsm::new(), true), (Hsm::cloudhsm(), false)] {
        for (number, curve) in ["P-256", "P-384", "P-521", "secp256k1"].into_iter().enumerate() {
            let uri =
                format!("pkcs11_uri:pkcs11:token={};object=made{number};id=%b{number}", hsm.token_label);
            let group = format!("ec_paramgen_curve:{curve}");
            let options = ["-algorithm", "EC", "-pkeyopt", &group, "-pkeyopt", &uri, "-out", "made.key"];
            genpkey(&hsm, &options).succeeds();
            signs(&hsm, "made.key", "-sha256", &[]);
            signs(&hsm, &format!("pkcs11:id=%b{number};type=private"), "-sha384", &[]);
            let shown = shown(&hsm, &format!("made{number}"));
            assert!(shown.contains("never extractable") && shown.contains(&format!("b{number}")), "{shown}");
            assert!(shown.contains("sign") && !shown.contains("derive"), "{shown}");
        }
        let uri = "pkcs11_uri:pkcs11:object=derives";
        let options = ["-algorithm", "EC", "-pkeyopt", "group:P-256", "-pkeyopt", uri, "-out", "made.key"];
        let usage = ["-pkeyopt", "pkcs11_key_usage:keyAgreement", "-pkeyopt", "hsmkey_extractable:1"];
        genpkey(&hsm, &[&options[..], &usage].concat()).succeeds();
        let shown = shown(&hsm, "derives");
        assert!(shown.contains("derive") && !shown.contains("never extractable"), "{shown}");
        hsm.openssl(["pkey", "-in", "made.key", "-pubout", "-out", "made.pub"]).succeeds();
        let peer = ["genpkey", "-algorithm", "EC", "-pkeyopt", "group:P-256", "-out", "peer.key"];
        let stock = |arguments: &[&str]| Program::stock_openssl(arguments).current_dir(hsm.token.directory());
        stock(&peer).succeeds();
        stock(&["pkey", "-in", "peer.key", "-pubout", "-out", "peer.pub"]).succeeds();
        let ours =
            hsm.openssl(["pkeyutl", "-derive", "-inkey", "made.key", "-peerkey", "peer.pub"]).succeeds();
        let theirs = stock(&["pkeyutl", "-derive", "-inkey", "peer.key", "-peerkey", "made.pub"]).succeeds();
        assert_eq!(ours.stdout, theirs.stdout);
        let options =
            ["-algorithm", "ED25519", "-pkeyopt", "pkcs11_uri:pkcs11:object=edwards", "-out", "made.key"];
        let made = genpkey(&hsm, &options).run();
        assert_eq!(made.status.success(), edwards, "{made}");
        if edwards {
            hsm.token.write("document", "some octets");
            let sign =
                ["pkeyutl", "-sign", "-rawin", "-inkey", "made.key", "-in", "document", "-out", "signature"];
            hsm.openssl(sign).succeeds();
            hsm.openssl(["pkey", "-in", "made.key", "-pubout", "-out", "made.pub"]).succeeds();
            let verify = ["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "made.pub", "-in", "document"];
            stock(&[&verify[..], &["-sigfile", "signature"]].concat()).succeeds();
        }
    }
}

#[test]
fn what_the_page_says_of_genpkey_is_what_happens() {
    let page = std::fs::read_to_string(repository().join("docs/applications.md")).unwrap();
    let commands: Vec<&str> = page.lines().filter(|line| line.starts_with("openssl genpkey ")).collect();
    assert!(commands.len() >= 2);
    let hsm = Hsm::cloudhsm();
    for command in commands {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        hsm.openssl(&words).succeeds();
        signs(&hsm, words.last().unwrap(), "-sha256", &[]);
    }
    for option in ["pkcs11_uri", "pkcs11_key_usage", "hsmkey_extractable"] {
        assert!(page.contains(&format!("\n| `{option}` | ")), "{option}");
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
fn an_hsm_that_restricts_no_key_to_pss_is_told_of() {
    let hsm = Hsm::cloudhsm();
    let made = genpkey(&hsm, &["-algorithm", "RSA-PSS", "-pkeyopt", "pkcs11_uri:pkcs11:object=made"]).fails();
    assert!(
        made.stderr.contains("CKA_ALLOWED_MECHANISMS") && made.stderr.contains("C_GenerateKeyPair"),
        "{made}"
    );
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
fn a_key_that_was_made_is_told_whatever_becomes_of_its_file() {
    let hsm = Hsm::new();
    let (pin, log) = (format!("file:{}", hsm.token.pin_file()), hsm.token.path("log"));
    hsm.configure(&[("pkcs11-module-token-pin", &pin), ("hsmkey-log", &format!("file:{log}"))]);
    let uri = "pkcs11_uri:pkcs11:object=lost";
    let options = ["-algorithm", "RSA", "-pkeyopt", uri, "-outform", "DER", "-out", "made.key"];
    let outcome = genpkey(&hsm, &options).run();
    assert!(!outcome.status.success() && outcome.stderr.contains(Reason::KeyStaysInHsm.text()), "{outcome}");
    let told = std::fs::read_to_string(log).unwrap();
    let address = told.split(' ').find(|word| word.starts_with("pkcs11:")).unwrap();
    assert!(address.contains("object=lost"), "{told}");
    signs(&hsm, address, "-sha256", &[]);
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
