//! What the HSM decrypts is what the software key decrypts.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hsmkey::error::Reason;
use openssl::rsa::Padding;

use crate::support::{Hsm, Key, OpenSsl, Program, Recorder, compile};

pub const MESSAGE: &[u8] = b"a message of some octets";

/// Options of pkeyutl for each way to pad.
const PADDINGS: &[&[&str]] = &[
    &[],
    &["rsa_padding_mode:pkcs1"],
    &["rsa_padding_mode:oaep"],
    &["rsa_padding_mode:oaep", "rsa_oaep_md:sha256"],
    &["rsa_padding_mode:oaep", "rsa_oaep_md:sha512", "rsa_mgf1_md:sha1"],
    &["rsa_padding_mode:oaep", "rsa_oaep_md:sha1", "rsa_mgf1_md:sha3-256"],
    &["rsa_padding_mode:oaep", "rsa_oaep_label:00aabb"],
    &["rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_oaep_label:00aabb"],
];

/// `pkeyutl` with these options.
pub fn pkeyutl<'a>(arguments: &[&'a str], options: &[&'a str]) -> Vec<&'a str> {
    let options = options.iter().flat_map(|option| ["-pkeyopt", option]);
    ["pkeyutl"].into_iter().chain(arguments.iter().copied()).chain(options).collect()
}

pub fn stock(hsm: &Hsm, arguments: &[&str]) -> Program {
    Program::stock_openssl(arguments).current_dir(hsm.token.directory())
}

/// A ciphertext of a block that need not be padded well.
pub fn encrypted(hsm: &Hsm, key: &Key, name: &str, block: &[u8]) -> String {
    let rsa = key.software.rsa().unwrap();
    let mut ciphertext = vec![0; rsa.size() as usize];
    rsa.public_encrypt(block, &mut ciphertext, Padding::NONE).unwrap();
    hsm.token.write(name, ciphertext)
}

/// A block of 256 octets in the form of PKCS#1 v1.5.
pub fn block(kind: [u8; 2], filling: usize, rest: &[u8]) -> Vec<u8> {
    let zero = usize::from(2 + filling + rest.len() < 256);
    let block = [&kind[..], &vec![7; filling], &vec![0; zero], rest].concat();
    assert_eq!(block.len(), 256);
    block
}

#[test]
fn every_padding_is_decrypted_and_encrypted_as_by_the_software_key() {
    for hsm in [Hsm::new(), Hsm::cloudhsm(), Hsm::cloudhsm_with("fips = on")] {
        let key = hsm.import_rsa(2048, "decrypting");
        hsm.token.write("message", MESSAGE);
        for options in PADDINGS {
            let encrypt = ["-encrypt", "-pubin", "-inkey", &key.public_file, "-in", "message"];
            let encrypt = [&encrypt[..], &["-out", "ciphertext"]].concat();
            stock(&hsm, &pkeyutl(&encrypt, options)).succeeds();
            for name in [&key.file, &key.uri] {
                let decrypt = ["-decrypt", "-inkey", name, "-in", "ciphertext"];
                let decrypted = hsm.openssl(pkeyutl(&decrypt, options)).succeeds();
                assert!(decrypted.stdout == MESSAGE && decrypted.stderr.is_empty(), "{decrypted}");
                // With the key object itself, as with a software key.
                let encrypt = ["-encrypt", "-inkey", name, "-in", "message", "-out", "back"];
                hsm.openssl(pkeyutl(&encrypt, options)).succeeds();
                let decrypt = ["-decrypt", "-inkey", &key.software_file, "-in", "back"];
                assert_eq!(
                    stock(&hsm, &pkeyutl(&decrypt, options)).succeeds().stdout,
                    MESSAGE,
                    "{options:?}"
                );
            }
        }
        let raw = block([0, 9], 200, &[8; 53]);
        encrypted(&hsm, &key, "ciphertext", &raw);
        let decrypt = ["-decrypt", "-inkey", &key.file, "-in", "ciphertext"];
        let decrypted = hsm.openssl(pkeyutl(&decrypt, &["rsa_padding_mode:none"])).succeeds();
        assert_eq!(decrypted.stdout, raw);
    }
}

#[test]
fn every_openssl_decrypts_with_hsmkey_in_either_place() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "decrypting");
    hsm.token.write("message", MESSAGE);
    for ours_first in [false, true] {
        if ours_first {
            hsm.list_hsmkey_first();
        }
        for openssl in OpenSsl::with_providers() {
            for options in [PADDINGS[0], PADDINGS[2], PADDINGS[7]] {
                let encrypt = ["-encrypt", "-inkey", &key.uri, "-in", "message", "-out", "ciphertext"];
                openssl.with(&hsm, pkeyutl(&encrypt, options)).succeeds();
                // The software keys are not taken away from the default provider.
                let pubin =
                    ["-encrypt", "-pubin", "-inkey", &key.public_file, "-in", "message", "-out", "other"];
                let outcome = openssl.with(&hsm, pkeyutl(&pubin, options)).succeeds();
                assert!(outcome.stderr.is_empty(), "{}: {outcome}", openssl.version);
                for name in [&key.file, &key.uri, &key.software_file] {
                    let decrypt = ["-decrypt", "-inkey", name, "-in", "ciphertext"];
                    let decrypted = openssl.with(&hsm, pkeyutl(&decrypt, options)).succeeds();
                    assert_eq!(decrypted.stdout, MESSAGE, "{}: {decrypted}", openssl.version);
                }
            }
        }
    }
}

#[test]
fn messages_are_decrypted_by_cms_and_smime() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "receiving");
        let other = hsm.import_rsa(2048, "other");
        hsm.token.write("message", MESSAGE);
        let request = ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=x", "-out", "x.pem"];
        stock(&hsm, &request).succeeds();
        for (command, options) in [
            ("cms", &[][..]),
            ("cms", &["-recip", "x.pem", "-keyopt", "rsa_padding_mode:oaep"]),
            (
                "cms",
                &["-recip", "x.pem", "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"],
            ),
            ("smime", &[]),
        ] {
            let recipient = if options.is_empty() { &["x.pem"][..] } else { &[] };
            let encrypt = [command, "-encrypt", "-binary", "-aes128", "-in", "message", "-out", "mail"];
            stock(&hsm, &[&encrypt[..], options, recipient].concat()).succeeds();
            for name in [&key.file, &key.uri] {
                for with_certificate in [true, false] {
                    let mut decrypt = vec![command, "-decrypt", "-in", "mail", "-inkey", name];
                    decrypt.extend(if with_certificate { &["-recip", "x.pem"][..] } else { &[] });
                    let decrypted = hsm.openssl(&decrypt).succeeds();
                    assert_eq!(decrypted.stdout, MESSAGE, "{decrypted}");
                }
            }
            let decrypt = [command, "-decrypt", "-in", "mail", "-inkey", &other.file];
            let outcome = hsm.openssl(decrypt).limit(Duration::from_secs(20)).run();
            assert!(outcome.stdout != MESSAGE, "{outcome}");
            assert!(outcome.time < Duration::from_secs(5), "{outcome}");
        }
    }
}

/// The lines of `decrypter` for a ciphertext.
pub fn decrypter(
    hsm: &Hsm,
    openssl: &OpenSsl,
    key: &str,
    mode: &str,
    count: &str,
    files: &[String],
) -> Vec<String> {
    let mut arguments = vec![key, mode, count];
    arguments.extend(files.iter().map(String::as_str));
    let outcome = hsm.program(compile("decrypter", openssl), arguments).succeeds();
    outcome.text().lines().map(str::to_owned).collect()
}

pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[test]
fn requests_are_what_they_have_to_be() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "counted");
        let good = encrypted(&hsm, &key, "good", &block([0, 2], 230, &[9; 23]));
        let bad = encrypted(&hsm, &key, "bad", &block([0, 1], 230, &[9; 23]));
        let counted = |openssl: &OpenSsl, mode, count, files: &[&String]| {
            hsm.recorder.reset();
            let files: Vec<String> = files.iter().map(|file| file.to_string()).collect();
            decrypter(&hsm, openssl, &key.file, mode, count, &files);
            hsm.recorder.counts()
        };
        let (old, new) = (OpenSsl::system(), OpenSsl::version("3.5"));
        for mode in ["explicit", "tls:303"] {
            let counts = counted(&old, mode, "1", &[&good]);
            assert_eq!(counts.requests(), 7, "{mode}: {:?}", counts.list("requests."));
            assert_eq!(counted(&old, mode, "11", &[&good]).requests(), 27, "{mode}");
            // A bad padding is not to be told from a good one by the requests.
            assert_eq!(
                counted(&old, mode, "11", &[&bad]).list("calls."),
                counted(&old, mode, "11", &[&good]).list("calls.")
            );
        }
        // One more decryption for each key and process is what the rejection is made from.
        assert_eq!(counted(&new, "pkcs1", "1", &[&good]).requests(), 9);
        assert_eq!(counted(&new, "pkcs1", "11", &[&good]).requests(), 29);
        assert_eq!(counted(&new, "pkcs1", "11", &[&bad]).requests(), 29);
        hsm.token.write("message", MESSAGE);
        let oaep = ["rsa_padding_mode:oaep"];
        let encrypt = ["-encrypt", "-inkey", &key.file, "-in", "message", "-out", "ciphertext"];
        hsm.recorder.reset();
        hsm.openssl(pkeyutl(&encrypt, &oaep)).succeeds();
        assert_eq!(hsm.recorder.counts().calls(), 0, "encryption needs no HSM");
        let ciphertext = hsm.token.path("ciphertext");
        assert_eq!(counted(&old, "oaep", "1", &[&ciphertext]).requests(), 7);
        assert_eq!(counted(&old, "oaep", "11", &[&ciphertext]).requests(), 27);
    }
}

#[test]
fn a_token_that_decrypts_padded_blocks_only_is_asked_for_them() {
    let hsm = Hsm::cloudhsm();
    let key = hsm.import_rsa(2048, "padded");
    let secret = [&[3, 3][..], &[5; 46]].concat();
    let good = encrypted(&hsm, &key, "good", &block([0, 2], 205, &secret));
    let bad = encrypted(&hsm, &key, "bad", &block([0, 1], 205, &secret));
    let old = encrypted(&hsm, &key, "old", &block([0, 2], 205, &[&[3, 1][..], &[5; 46]].concat()));
    let refused = format!("! {}", Reason::Decryption as u32);
    let expected = format!("={}", hex(&secret));
    // The first C_DecryptInit is for CKM_RSA_X_509, which is not tried again.
    let run = |mode, file: &String| {
        hsm.recorder.control("error on=C_DecryptInit once code=0x70");
        hsm.recorder.reset();
        let begun = Instant::now();
        let lines = decrypter(&hsm, &OpenSsl::system(), &key.file, mode, "2", std::slice::from_ref(file));
        assert!(begun.elapsed() < Duration::from_secs(5));
        lines
    };
    for mode in ["explicit", "implicit", "tls:303"] {
        assert_eq!(run(mode, &good), [expected.clone(), expected.clone()], "{mode}");
        assert_eq!(hsm.recorder.counts().get("calls.C_DecryptInit"), 3, "{mode}");
    }
    assert_eq!(run("explicit", &bad), [refused.clone(), refused]);
    // What may be the HSM's trouble is tried three times.
    assert_eq!(hsm.recorder.counts().get("calls.C_Decrypt"), 6);
    let lines = run("implicit", &bad);
    assert!(lines[0].starts_with('=') && lines[0] == lines[1] && lines[0] != expected, "{lines:?}");
    for (file, what) in [(&bad, "the padding"), (&old, "the version")] {
        let lines = run("tls:303", file);
        assert!(lines.iter().all(|line| line.len() == 1 + 96) && lines[0] != lines[1], "{what}: {lines:?}");
    }
}

#[test]
fn faults_during_a_decryption_cost_no_message() {
    for fault in [
        "device-error on=C_Decrypt once",
        "function-failed on=C_Decrypt times=2",
        "general-error on=C_DecryptInit times=3",
        "session-lost on=C_Decrypt once",
        "login-lost on=C_DecryptInit once",
        "handles-changed on=C_DecryptInit once",
        "not-initialized on=C_DecryptInit once",
        "error on=C_Decrypt times=2 code=0x05",
    ] {
        let hsm = Hsm::cloudhsm();
        let key = hsm.import_rsa(2048, "decrypting");
        hsm.token.write("message", MESSAGE);
        for (options, mode) in [(PADDINGS[0], "implicit"), (PADDINGS[0], "explicit"), (PADDINGS[2], "oaep")] {
            let encrypt = ["-encrypt", "-pubin", "-inkey", &key.public_file, "-in", "message", "-out", "c"];
            stock(&hsm, &pkeyutl(&encrypt, options)).succeeds();
            hsm.recorder.control(fault);
            hsm.recorder.reset();
            let lines = decrypter(
                &hsm,
                &OpenSsl::system(),
                &key.file,
                mode,
                "3",
                std::slice::from_ref(&hsm.token.path("c")),
            );
            assert_eq!(lines, vec![format!("={}", hex(MESSAGE)); 3], "{fault} {mode}");
            assert!(hsm.recorder.counts().get("faults") > 0, "{fault} {mode}");
        }
    }
}

#[test]
fn a_key_that_may_only_sign_says_so() {
    let hsm = Hsm::new();
    let source = format!("file:{}", hsm.token.pin_file());
    let keygen = ["keygen", "--label", "signing", "--out", "signing.key", "--pin-source", &source];
    hsm.hsmkey(keygen).env("PKCS11_PROVIDER_MODULE", Recorder::module()).succeeds();
    hsm.token.write("message", MESSAGE);
    for options in PADDINGS {
        let encrypt = ["-encrypt", "-inkey", "signing.key", "-in", "message", "-out", "ciphertext"];
        hsm.openssl(pkeyutl(&encrypt, options)).succeeds();
        let decrypt = ["-decrypt", "-inkey", "signing.key", "-in", "ciphertext"];
        let outcome = hsm.openssl(pkeyutl(&decrypt, options)).fails();
        assert!(outcome.stderr.contains(Reason::KeyNotPermitted.text()), "{outcome}");
        assert!(outcome.stderr.contains("CKA_DECRYPT"), "{outcome}");
    }
}

#[test]
fn a_tls_1_2_server_takes_the_premaster_secret_from_the_hsm() {
    let hsm = Hsm::cloudhsm();
    let key = hsm.import_rsa(2048, "serving");
    let request =
        ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=localhost", "-out", "x.pem"];
    stock(&hsm, &request).succeeds();
    for openssl in OpenSsl::with_providers() {
        for name in [&key.file, &key.uri] {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let address = format!("127.0.0.1:{port}");
            let serve = ["s_server", "-accept", &address, "-key", name, "-cert", "x.pem", "-naccept", "3"];
            let options = ["-tls1_2", "-cipher", "AES128-SHA256", "-www", "-quiet"];
            hsm.recorder.reset();
            let server = openssl.with(&hsm, [&serve[..], &options].concat());
            let server = std::thread::spawn(move || server.run());
            let up = (0..200).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                // The first of the three.
                TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
            });
            assert!(up, "no server on {address}");
            for _ in 0..2 {
                let connect = ["s_client", "-connect", &address, "-CAfile", "x.pem", "-verify_return_error"];
                let options = ["-tls1_2", "-cipher", "AES128-SHA256", "-ign_eof"];
                let client = stock(&hsm, &[&connect[..], &options].concat()).stdin("GET / HTTP/1.0\r\n\r\n");
                let outcome = client.succeeds();
                assert!(outcome.text().contains("Cipher is AES128-SHA256"), "{outcome}");
                assert!(outcome.text().contains("HTTP/1.0 200 ok"), "{outcome}");
            }
            server.join().unwrap();
            assert_eq!(hsm.recorder.counts().get("calls.C_Decrypt"), 2);
        }
    }
}
