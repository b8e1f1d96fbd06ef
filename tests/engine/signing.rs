//! What is signed and decrypted by an engine's key is what the same key does in software.

use std::fs;

use crate::reference_files::{add_ca, issues};
use crate::support::{Hsm, Key, OpenSsl, Program};

/// An HSM with a key in it, configured as libp11's users have it.
pub fn setting() -> (Hsm, Key) {
    set_up(Hsm::new())
}

/// The same on SoftHSM2 and on a CloudHSM.
pub fn both() -> [(Hsm, Key); 2] {
    [Hsm::new(), Hsm::cloudhsm()].map(set_up)
}

/// The same on an HSM that is there.
pub fn set_up(hsm: Hsm) -> (Hsm, Key) {
    let key = hsm.import_rsa(2048, "engine-key");
    hsm.token.write("document", "some octets");
    configure(&hsm, &[("init", "0")]);
    (hsm, key)
}

/// The engine's usual section, and these lines.
pub fn configure(hsm: &Hsm, more: &[(&str, &str)]) {
    let lines = hsm.engine_lines();
    let lines = lines.iter().map(|(name, value)| (*name, &value[..])).chain(more.iter().copied());
    hsm.configure_engine(&lines.collect::<Vec<_>>());
}

/// What a command with the software key and no hsmkey writes.
pub fn in_software(hsm: &Hsm, arguments: &[&str]) -> Vec<u8> {
    Program::stock_openssl(arguments).current_dir(hsm.token.directory()).succeeds().stdout
}

const ENGINE: [&str; 4] = ["-engine", "hsmkey", "-keyform", "engine"];

#[test]
fn every_digest_gives_the_software_keys_signature() {
    for (hsm, key) in both() {
        for digest in ["-md5", "-sha1", "-sha224", "-sha256", "-sha384", "-sha512", "-sha3-256", "-md5-sha1"]
        {
            let software = in_software(&hsm, &["dgst", digest, "-sign", &key.software_file, "document"]);
            assert_eq!(software.len(), 256);
            for openssl in OpenSsl::with_engines() {
                let sign = ["-sign", "engine-key", "-out", "signature", "document"];
                openssl.with(&hsm, [&["dgst", digest], &ENGINE[..], &sign].concat()).succeeds();
                let signature = fs::read(hsm.token.path("signature")).unwrap();
                assert!(signature == software, "{} {digest}", openssl.version);
            }
        }
    }
}

#[test]
fn pss_signatures_verify_for_every_salt_length_and_mask() {
    for (hsm, key) in both() {
        for (digest, salt, mask) in [
            ("-sha256", "-1", "sha256"),
            ("-sha256", "-2", "sha256"),
            ("-sha256", "0", "sha256"),
            ("-sha1", "-1", "sha1"),
            ("-sha512", "-1", "sha512"),
            ("-sha256", "20", "sha1"),
        ] {
            let (salt, mask) = (format!("rsa_pss_saltlen:{salt}"), format!("rsa_mgf1_md:{mask}"));
            let options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", &salt, "-sigopt", &mask];
            for openssl in OpenSsl::with_engines() {
                let sign = ["dgst", digest, "-sign", "engine-key", "-out", "signature"];
                openssl
                    .with(&hsm, sign.iter().chain(&ENGINE).chain(&options).chain(&["document"]))
                    .succeeds();
                let verify = ["dgst", digest, "-verify", &key.public_file, "-signature", "signature"];
                let verify = Program::stock_openssl(verify.iter().chain(&options).chain(&["document"]));
                verify.current_dir(hsm.token.directory()).succeeds();
            }
        }
    }
}

#[test]
fn what_is_encrypted_for_the_key_is_decrypted() {
    for (hsm, key) in both() {
        hsm.token.write("secret", "a secret");
        for padding in ["pkcs1", "oaep"] {
            let padding = format!("rsa_padding_mode:{padding}");
            let encrypt = ["pkeyutl", "-encrypt", "-pubin", "-inkey", &key.public_file, "-in", "secret"];
            let encrypt = [&encrypt[..], &["-out", "encrypted", "-pkeyopt", &padding]].concat();
            in_software(&hsm, &encrypt);
            for openssl in OpenSsl::with_engines() {
                let decrypt =
                    ["pkeyutl", "-decrypt", "-inkey", "engine-key", "-in", "encrypted", "-out", "decrypted"];
                openssl.with(&hsm, decrypt.iter().chain(&ENGINE).chain(&["-pkeyopt", &padding])).succeeds();
                let decrypted = fs::read(hsm.token.path("decrypted")).unwrap();
                assert_eq!(decrypted, b"a secret", "{}", openssl.version);
            }
        }
    }
}

#[test]
fn requests_and_certificates_are_signed() {
    let (hsm, key) = setting();
    let check = |arguments: &[&str]| in_software(&hsm, arguments);
    for openssl in OpenSsl::with_engines() {
        for digest in ["-sha1", "-sha256"] {
            let request =
                ["req", "-new", digest, "-key", "engine-key", "-subj", "/CN=leaf", "-out", "request"];
            openssl.with(&hsm, request.iter().chain(&ENGINE)).succeeds();
            check(&["req", "-verify", "-noout", "-in", "request"]);
            let own = ["req", "-x509", "-new", digest, "-key", "engine-key", "-subj", "/CN=x", "-out", "own"];
            let ca = ["-addext", "basicConstraints=critical,CA:TRUE"];
            openssl.with(&hsm, [&own[..], &ca, &ENGINE].concat()).succeeds();
            check(&["verify", "-auth_level", "0", "-check_ss_sig", "-CAfile", "own", "own"]);
            let issue = ["x509", "-req", digest, "-in", "request", "-CA", "own", "-CAkey", "engine-key"];
            let issue = issue.iter().chain(&["-CAkeyform", "engine", "-engine", "hsmkey"]);
            openssl.with(&hsm, issue.chain(&["-set_serial", "5", "-out", "issued"])).succeeds();
            check(&["verify", "-auth_level", "0", "-check_ss_sig", "-CAfile", "own", "issued"]);
        }
        let public =
            ["rsa", "-engine", "hsmkey", "-inform", "engine", "-in", "engine-key", "-pubout", "-out", "pub"];
        openssl.with(&hsm, public).succeeds();
        assert_eq!(fs::read(hsm.token.path("pub")).unwrap(), fs::read(&key.public_file).unwrap());
    }
}

#[test]
fn a_ca_issues() {
    let (hsm, key) = setting();
    let own = ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=ca", "-days", "9"];
    in_software(&hsm, &[&own[..], &["-out", "own"]].concat());
    in_software(&hsm, &["req", "-new", "-key", &key.software_file, "-subj", "/CN=leaf", "-out", "request"]);
    add_ca(&hsm);
    for openssl in OpenSsl::with_engines() {
        issues(&hsm, &openssl, &[&["-keyfile", "engine-key"], &ENGINE[..]].concat());
    }
}

#[test]
fn messages_are_signed_and_opened() {
    let (hsm, key) = setting();
    let own =
        ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=x", "-days", "9", "-out", "own"];
    in_software(&hsm, &own);
    let encrypt = ["cms", "-encrypt", "-in", "document", "-out", "enveloped", "own"];
    in_software(&hsm, &encrypt);
    for openssl in OpenSsl::with_engines() {
        for command in ["cms", "smime"] {
            let sign = [
                command,
                "-sign",
                "-in",
                "document",
                "-signer",
                "own",
                "-inkey",
                "engine-key",
                "-out",
                "signed",
            ];
            openssl.with(&hsm, sign.iter().chain(&ENGINE)).succeeds();
            let verify = [command, "-verify", "-in", "signed", "-CAfile", "own", "-out", "verified"];
            in_software(&hsm, &verify);
            assert!(fs::read(hsm.token.path("verified")).unwrap().starts_with(b"some octets"));
        }
        let open = [
            "cms",
            "-decrypt",
            "-in",
            "enveloped",
            "-recip",
            "own",
            "-inkey",
            "engine-key",
            "-out",
            "opened",
        ];
        openssl.with(&hsm, open.iter().chain(&ENGINE)).succeeds();
        assert!(fs::read(hsm.token.path("opened")).unwrap().starts_with(b"some octets"));
    }
}

#[test]
fn three_x_finds_keys_by_an_engine_uri() {
    let (hsm, key) = setting();
    let software = in_software(&hsm, &["dgst", "-sha256", "-sign", &key.software_file, "document"]);
    for openssl in [OpenSsl::system(), OpenSsl::version("3.5")] {
        let uri = format!("org.openssl.engine:hsmkey:{}", key.uri);
        for name in [&uri, "org.openssl.engine:hsmkey:label_engine-key"] {
            let sign = openssl.with(&hsm, ["dgst", "-sha256", "-sign", name, "document"]).succeeds();
            assert!(sign.stdout == software && sign.stderr.is_empty(), "{sign}");
            let request = ["req", "-new", "-key", name, "-subj", "/CN=leaf", "-out", "request"];
            openssl.with(&hsm, request).succeeds();
            in_software(&hsm, &["req", "-verify", "-noout", "-in", "request"]);
            let own = ["req", "-x509", "-new", "-key", name, "-subj", "/CN=x", "-out", "own"];
            let ca = ["-addext", "basicConstraints=critical,CA:TRUE"];
            openssl.with(&hsm, [&own[..], &ca].concat()).succeeds();
            let issue = ["x509", "-req", "-in", "request", "-CA", "own", "-CAkey", name, "-out", "issued"];
            openssl.with(&hsm, issue).succeeds();
            in_software(&hsm, &["verify", "-CAfile", "own", "issued"]);
            let sign =
                ["cms", "-sign", "-in", "document", "-signer", "own", "-inkey", name, "-out", "signed"];
            openssl.with(&hsm, sign).succeeds();
            in_software(&hsm, &["cms", "-verify", "-in", "signed", "-CAfile", "own", "-out", "verified"]);
        }
    }
}

#[test]
fn ec_keys_sign_and_derive() {
    for curve in ["prime256v1", "secp384r1", "secp521r1"] {
        let (hsm, _) = setting();
        let key = hsm.import_ec(curve, "ec");
        in_software(&hsm, &["ecparam", "-name", curve, "-genkey", "-noout", "-out", "peer.key"]);
        in_software(&hsm, &["pkey", "-in", "peer.key", "-pubout", "-out", "peer.pub"]);
        let derive = ["pkeyutl", "-derive", "-peerkey", "peer.pub", "-inkey"];
        let secret = in_software(&hsm, &[&derive[..], &[&key.software_file]].concat());
        for openssl in OpenSsl::with_engines() {
            for digest in ["-sha1", "-sha256", "-sha512"] {
                for name in [&key.file, "label_ec"] {
                    let sign = ["-sign", name, "-out", "signature", "document"];
                    openssl.with(&hsm, [&["dgst", digest], &ENGINE[..], &sign].concat()).succeeds();
                    let verify = ["-verify", &key.public_file, "-signature", "signature", "document"];
                    in_software(&hsm, &[&["dgst", digest], &verify[..]].concat());
                }
            }
            let derive = [&derive[..], &[&key.file, "-out", "secret"], &ENGINE].concat();
            openssl.with(&hsm, derive).succeeds();
            assert!(fs::read(hsm.token.path("secret")).unwrap() == secret, "{}", openssl.version);
        }
    }
}

#[test]
fn one_signature_costs_no_more_requests_than_the_providers() {
    for (hsm, key) in both() {
        for openssl in OpenSsl::with_engines() {
            for name in ["label_engine-key", &key.uri, &key.file] {
                hsm.recorder.reset();
                let sign = ["-sign", name, "-out", "signature", "document"];
                openssl.with(&hsm, [&["dgst", "-sha256"], &ENGINE[..], &sign].concat()).succeeds();
                let counts = hsm.recorder.counts();
                assert!(
                    counts.requests() <= 8 && counts.calls() <= 13,
                    "{name}: {:?}",
                    counts.list("calls.")
                );
            }
        }
    }
}
