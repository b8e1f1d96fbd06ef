//! RSA keys for PSS only: the key file says so, with a restriction to one digest and salt where there is one, and what OpenSSL refuses
//! such a key in software it refuses the key in the HSM.

use hsmkey::keyfile;
use hsmkey::spki::spki_to_key;
use hsmkey::uri::Uri;
use openssl::pkey::PKey;

use crate::support::{Hsm, Key, OpenSsl, Program, compile};

/// Options of `genpkey` for software keys of every restriction.
const RESTRICTIONS: [&[&str]; 4] = [
    &[],
    &["rsa_pss_keygen_md:sha256", "rsa_pss_keygen_mgf1_md:sha256", "rsa_pss_keygen_saltlen:32"],
    &["rsa_pss_keygen_md:sha512"],
    &["rsa_pss_keygen_saltlen:10"],
];

fn options(restriction: &[&str]) -> Vec<String> {
    restriction.iter().flat_map(|option| ["-pkeyopt".to_owned(), (*option).to_owned()]).collect()
}

/// A key of stock OpenSSL's for PSS only, put into the token, and its pointer file.
fn import(hsm: &Hsm, label: &str, restriction: &[&str]) -> Key {
    let software_file = hsm.token.path(&format!("{label}.pss.key"));
    let generate = ["genpkey", "-algorithm", "RSA-PSS", "-quiet", "-out", &software_file];
    let generate = generate.map(str::to_owned).into_iter().chain(options(restriction));
    Program::stock_openssl(generate.filter(|option| option != "-quiet")).succeeds();
    let software = PKey::private_key_from_pem(&std::fs::read(&software_file).unwrap()).unwrap();
    let (public, pss) = spki_to_key(&software.public_key_to_der().unwrap()).unwrap();
    let key = hsm.import_rsa_key(software.rsa().unwrap(), label);
    let uri = Uri { public: Some(public), pss, ..key.uri.parse().unwrap() };
    let file = hsm.token.write(&format!("{label}.key"), keyfile::write_pointer(&uri).unwrap());
    let public_file = hsm.token.write(&format!("{label}.pub"), software.public_key_to_pem().unwrap());
    Key { software, file, software_file, public_file, ..key }
}

#[test]
fn a_key_file_says_what_its_key_signs_with() {
    let hsm = Hsm::new();
    hsm.token.write("document", "some octets");
    for (number, restriction) in RESTRICTIONS.into_iter().enumerate() {
        let key = import(&hsm, &format!("pss-{number}"), restriction);
        for openssl in OpenSsl::with_providers() {
            let with = |file: &str, arguments: &[&str]| {
                let arguments = arguments.iter().map(|argument| argument.replace("KEY", file));
                let program = if file == key.file {
                    openssl.with(&hsm, arguments)
                } else {
                    openssl.stock(arguments).current_dir(hsm.token.directory())
                };
                program.run()
            };
            for show in
                [&["pkey", "-in", "KEY", "-pubout"][..], &["pkey", "-in", "KEY", "-text_pub", "-noout"]]
            {
                let (ours, software) = (with(&key.file, show), with(&key.software_file, show));
                assert!(software.status.success());
                assert_eq!(ours.text(), software.text(), "{}: {ours}", openssl.version);
            }
            for way in [
                "-sha256",
                "-sha512",
                "-sha1",
                "-sha256 -sigopt rsa_padding_mode:pkcs1",
                "-sha256 -sigopt rsa_padding_mode:none",
                "-sha256 -sigopt rsa_padding_mode:pss",
                "-sha256 -sigopt rsa_pss_saltlen:digest",
                "-sha256 -sigopt rsa_pss_saltlen:32",
                "-sha256 -sigopt rsa_pss_saltlen:11",
                "-sha256 -sigopt rsa_pss_saltlen:9",
                "-sha256 -sigopt rsa_pss_saltlen:max",
                "-sha256 -sigopt rsa_pss_saltlen:auto",
                "-sha256 -sigopt rsa_mgf1_md:sha512",
                "-sha512 -sigopt rsa_mgf1_md:sha1",
            ] {
                let sign = format!("dgst {way} -sign KEY -out signature document");
                let sign: Vec<&str> = sign.split(' ').collect();
                let (software, ours) = (with(&key.software_file, &sign), with(&key.file, &sign));
                let said = format!("{} {restriction:?} {way}: {software}\n{ours}", openssl.version);
                assert_eq!(ours.status, software.status, "{said}");
                if ours.status.success() {
                    let digest = way.split(' ').next().unwrap();
                    // Salt and mask as they were signed with: verification looks at both.
                    let same = way.replace("saltlen:auto", "saltlen:max");
                    let same: Vec<&str> = same.split(' ').skip(1).collect();
                    for verify in [
                        ["-verify", &key.public_file, "-signature", "signature"],
                        ["-prverify", "KEY", "-signature", "signature"],
                    ] {
                        let verify = [&["dgst", digest][..], &verify, &same, &["document"]].concat();
                        let verified = with(&key.file, &verify);
                        assert!(verified.status.success(), "{said}\n{verified}");
                        let verified = with(&key.software_file, &verify);
                        assert!(verified.status.success(), "{said}\n{verified}");
                    }
                }
            }
            // What was never asked for the padding knows it.
            let request = ["req", "-x509", "-new", "-key", "KEY", "-subj", "/CN=x", "-out", "own.pem"];
            assert_eq!(with(&key.file, &request).status, with(&key.software_file, &request).status);
            let made = with(&key.file, &request);
            if made.status.success() {
                let verify = ["verify", "-check_ss_sig", "-CAfile", "own.pem", "own.pem"];
                Program::stock_openssl(verify).current_dir(hsm.token.directory()).succeeds();
            }
            let decrypt = ["pkeyutl", "-encrypt", "-inkey", "KEY", "-in", "document"];
            assert_eq!(with(&key.file, &decrypt).status, with(&key.software_file, &decrypt).status);
        }
    }
}

#[test]
fn it_is_asked_for_as_a_software_key_is() {
    let hsm = Hsm::new();
    let keys: Vec<Key> =
        (0..).zip(RESTRICTIONS).map(|(n, restriction)| import(&hsm, &format!("k{n}"), restriction)).collect();
    for openssl in OpenSsl::with_providers() {
        let program = compile("choices", &openssl);
        for key in &keys {
            let arguments = |file: &str| ["rsa", file, &key.public_file].map(str::to_owned);
            let software = Program::new(&program, arguments(&key.software_file)).run();
            let ours = hsm.program(&program, arguments(&key.file)).run();
            assert!(ours.status.success() && software.status.success(), "{ours}\n{software}");
            let lines = software.text().lines().zip(ours.text().lines());
            let different = lines.filter(|(software, ours)| software != ours);
            let different: Vec<String> =
                different.map(|(software, ours)| format!("{software}\n{ours}\n")).collect();
            assert!(different.is_empty(), "{}: {}", openssl.version, different.join("\n"));
            assert!(
                ours.text().lines().count() > 100
                    && ours.text().lines().count() == software.text().lines().count()
            );
        }
    }
}

#[test]
fn genpkey_writes_what_it_made() {
    for (number, restriction) in RESTRICTIONS.into_iter().enumerate() {
        let hsm = Hsm::new();
        hsm.token.write("document", "some octets");
        let uri = format!("pkcs11_uri:pkcs11:object=made-{number}");
        let generate =
            ["genpkey", "-propquery", "provider=hsmkey", "-algorithm", "RSA-PSS", "-out", "made.key"];
        let generate = generate.map(str::to_owned).into_iter().chain(["-pkeyopt".to_owned(), uri]);
        hsm.openssl(generate.chain(options(restriction))).succeeds();
        let software = import(&hsm, "software", restriction).software.public_key_to_der().unwrap();
        hsm.openssl(["pkey", "-in", "made.key", "-pubout", "-outform", "DER", "-out", "made.der"]).succeeds();
        let made = std::fs::read(hsm.token.path("made.der")).unwrap();
        assert_eq!(spki_to_key(&made).unwrap().1, spki_to_key(&software).unwrap().1);
        if number == 2 {
            // SoftHSM2 has no PSS with two digests, and the key may not be used without PSS.
            continue;
        }
        let digest = if number == 3 { "-sha1" } else { "-sha256" };
        hsm.openssl(["dgst", digest, "-sign", "made.key", "-out", "signature", "document"]).succeeds();
        hsm.openssl(["pkey", "-in", "made.key", "-pubout", "-out", "made.pub"]).succeeds();
        let verify = ["dgst", digest, "-verify", "made.pub", "-signature", "signature", "document"];
        Program::stock_openssl(verify).current_dir(hsm.token.directory()).succeeds();
        let pkcs1 = ["dgst", digest, "-sign", "made.key", "-sigopt", "rsa_padding_mode:pkcs1", "document"];
        hsm.openssl(pkcs1).fails();
        // The command writes the same of what the HSM says, which knows of no digest.
        let source = format!("file:{}", hsm.token.pin_file());
        let name = format!("pkcs11:object=made-{number};type=private");
        let written = hsm.hsmkey(["keyfile", &name, "--out", "-", "--pin-source", &source]);
        let written = written.env("PKCS11_PROVIDER_MODULE", crate::support::Recorder::module()).succeeds();
        let der = pem_rfc7468::decode_vec(keyfile::first_block(&written.stdout).0).unwrap().1;
        assert_eq!(keyfile::from_pointer_der(&der).unwrap().pss, Some(hsmkey::public::PssParams::default()));
    }
}

#[test]
fn a_file_that_is_written_again_keeps_the_restriction() {
    let hsm = Hsm::new();
    let source = format!("file:{}", hsm.token.pin_file());
    let write = |key: &Key| {
        let arguments = ["keyfile", &key.uri, "--out", &key.file, "--force", "--pin-source", &source];
        let written = hsm.hsmkey(arguments).env("PKCS11_PROVIDER_MODULE", crate::support::Recorder::module());
        written.succeeds();
        std::fs::read(&key.file).unwrap()
    };
    for (number, restriction) in RESTRICTIONS.into_iter().enumerate() {
        let key = import(&hsm, &format!("again-{number}"), restriction);
        let before = std::fs::read(&key.file).unwrap();
        assert_eq!(write(&key), before, "{restriction:?}");
        // What stood there for another key says nothing of this one.
        let other = import(&hsm, &format!("other-{number}"), restriction);
        std::fs::copy(&other.file, &key.file).unwrap();
        let written = write(&key);
        assert!(written.starts_with(b"-----BEGIN RSA PRIVATE KEY-----"), "{restriction:?}");
    }
}

/// Signatures by the same modulus under other rules, as somebody else may have made them.
#[test]
fn what_it_may_not_sign_it_does_not_verify_either() {
    let hsm = Hsm::new();
    hsm.token.write("document", "some octets");
    for (number, restriction) in RESTRICTIONS.into_iter().enumerate() {
        let key = import(&hsm, &format!("foreign-{number}"), restriction);
        let free = PKey::from_rsa(key.software.rsa().unwrap()).unwrap();
        let free = hsm.token.write("free.key", free.private_key_to_pem_pkcs8().unwrap());
        for openssl in OpenSsl::with_providers() {
            for digest in ["-sha1", "-sha256", "-sha512"] {
                for salt in ["9", "32"] {
                    let salt = format!("rsa_pss_saltlen:{salt}");
                    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", &salt];
                    let sign = ["dgst", digest, "-sign", &free, "-out", "signature", "document"];
                    let sign = [&sign[..1], &pss, &sign[1..]].concat();
                    openssl.stock(sign).current_dir(hsm.token.directory()).succeeds();
                    for options in [&[][..], &pss] {
                        let verify = |option: &str, file: &str| {
                            let half = [option, file, "-signature", "signature", "document"];
                            let words = [&["dgst", digest], options, &half].concat();
                            words.into_iter().map(str::to_owned).collect::<Vec<_>>()
                        };
                        let software = verify("-verify", &key.public_file);
                        let stock = openssl.stock(&software).current_dir(hsm.token.directory()).run();
                        for ours in [software, verify("-prverify", &key.file)] {
                            let ours = openssl.with(&hsm, ours).run();
                            let version = &openssl.version;
                            assert_eq!(
                                ours.status, stock.status,
                                "{version} {restriction:?} {digest} {salt} {options:?}: {ours}\n{stock}"
                            );
                        }
                    }
                }
            }
        }
    }
}
