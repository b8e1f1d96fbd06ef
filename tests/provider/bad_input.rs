//! Bad input gets a named cause on stderr, an exit status, and nothing on stdout.

use std::fs;

use hsmkey::error::Reason;
use hsmkey::keyfile;
use hsmkey::public::RsaPublicKey;
use hsmkey::uri::Uri;

use crate::support::{Hsm, Key, Program, Recorder, Token, c_program, softhsm};

/// A token with one key, and something to sign.
fn hsm() -> (Hsm, Key) {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "signing");
    hsm.token.write("document", "some octets");
    (hsm, key)
}

fn sign(hsm: &Hsm, key: &str) -> Program {
    // Without a terminal, so that nobody is asked for a PIN.
    hsm.openssl(["dgst", "-sha256", "-sign", key, "document"]).under("setsid", ["--wait"])
}

/// Signing fails, and OpenSSL's error output names this reason. Its text is what the error table holds for it.
#[track_caller]
fn refused(program: Program, reason: Reason) -> String {
    let outcome = program.fails();
    assert!(outcome.stderr.contains(reason.text()), "{} is not among the causes: {outcome}", reason.name());
    outcome.stderr
}

fn logins(hsm: &Hsm) -> u64 {
    hsm.recorder.counts().get("calls.C_Login")
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let (hsm, key) = hsm();
    hsm.token.write("pin", "crypto_user:not the password");
    for name in [&key.file, &key.uri] {
        hsm.recorder.reset();
        let said = refused(sign(&hsm, name), Reason::PinRejected);
        assert!(said.contains("CKR_PIN_INCORRECT") && !said.contains("not the password"), "{said}");
        assert!(said.contains(&hsm.token.pin_file()), "it says where the PIN stands: {said}");
        assert_eq!(logins(&hsm), 1);
    }
    hsm.configure(&[("pkcs11-module-token-pin", "env:SECRET")]);
    let said =
        refused(sign(&hsm, &key.file).env("SECRET", "crypto_user:not the password"), Reason::PinRejected);
    assert!(said.contains("SECRET") && !said.contains("not the password"), "{said}");
}

#[test]
fn a_missing_pin_is_named_and_no_login_is_tried() {
    let (hsm, key) = hsm();
    hsm.configure(&[]);
    refused(sign(&hsm, &key.file), Reason::PinMissing);
    hsm.configure(&[("pkcs11-module-token-pin", "file:/nowhere/pin")]);
    let said = refused(sign(&hsm, &key.file), Reason::PinSource);
    assert!(said.contains("/nowhere/pin"), "{said}");
    hsm.configure(&[("pkcs11-module-token-pin", "env:NOT_SET")]);
    refused(sign(&hsm, &key.file), Reason::PinSource);
    assert_eq!(logins(&hsm), 0);
}

#[test]
fn a_pin_that_openssl_cnf_cut_is_named_and_not_tried() {
    let (hsm, key) = hsm();
    for cut in ["crypto_user:#secret", "#secret"] {
        hsm.configure(&[("pkcs11-module-token-pin", cut)]);
        let said = refused(sign(&hsm, &key.uri), Reason::BadDirective);
        assert!(said.contains("pkcs11-module-token-pin") && !said.contains("secret"), "{said}");
    }
    assert_eq!(logins(&hsm), 0);
    // What is left of this one is a PIN in form, and only the HSM can tell.
    hsm.configure(&[("pkcs11-module-token-pin", "crypto_user:first#second")]);
    let said = refused(sign(&hsm, &key.uri), Reason::PinRejected);
    assert!(said.contains("file:PATH") && !said.contains("first"), "{said}");
    assert_eq!(logins(&hsm), 1);
    hsm.token.write("pin", "crypto_user:not the password");
    hsm.configure(&[("pkcs11-module-token-pin", &format!("file:{}", hsm.token.pin_file()))]);
    assert!(!refused(sign(&hsm, &key.uri), Reason::PinRejected).contains("file:PATH"));
}

#[test]
fn a_pin_without_a_user_is_named_on_cloudhsm() {
    let (hsm, key) = hsm();
    hsm.recorder.settings("rules = on\nlabel = test");
    hsm.token.write("pin", "password");
    refused(sign(&hsm, &key.file), Reason::PinFormat);
    assert!(logins(&hsm) <= 1);
}

#[test]
fn a_directive_with_an_unknown_value_is_named() {
    let (hsm, key) = hsm();
    let pin = format!("file:{}", hsm.token.pin_file());
    hsm.configure(&[("pkcs11-module-token-pin", &pin), ("hsmkey-sha1", "perhaps")]);
    let said = refused(sign(&hsm, &key.uri), Reason::BadDirective);
    assert!(said.contains("hsmkey-sha1"), "{said}");
}

#[test]
fn a_key_that_is_not_there_is_named() {
    let (hsm, key) = hsm();
    let said = refused(sign(&hsm, "pkcs11:object=absent;type=private"), Reason::KeyNotFound);
    assert!(said.contains("absent") && said.contains("storeutl"), "{said}");
    let absent = key_file(&hsm, &key, "pkcs11:object=absent", "absent.key");
    refused(sign(&hsm, &absent), Reason::KeyNotFound);
}

/// A reference to a URI with the public half of a key.
fn key_file(hsm: &Hsm, key: &Key, uri: &str, name: &str) -> String {
    let rsa = key.software.rsa().unwrap();
    let public = RsaPublicKey::new(&rsa.n().to_vec(), &rsa.e().to_vec());
    hsm.token.write(name, keyfile::write_reference(&public, &Uri::parse(uri.as_bytes()).unwrap()).unwrap())
}

#[test]
fn several_keys_for_one_name_are_listed() {
    let (hsm, _) = hsm();
    hsm.import_rsa(1024, "other");
    let said = refused(sign(&hsm, "pkcs11:type=private"), Reason::KeyAmbiguous);
    assert!(said.contains("object=signing") && said.contains("object=other"), "{said}");
    // Two keys of one label are no ambiguity for a key file, which knows its public half.
    let first = hsm.import_rsa(2048, "twice");
    let first_file = fs::read(&first.file).unwrap();
    let second = hsm.import_rsa(2048, "twice");
    let said = refused(sign(&hsm, &second.uri), Reason::KeyAmbiguous);
    assert!(said.contains("object=twice"), "{said}");
    let first_file = hsm.token.write("first.key", first_file);
    for (file, key) in [(&first_file, &first), (&second.file, &second)] {
        let signature = sign(&hsm, file).succeeds().stdout;
        let mut signer =
            openssl::sign::Signer::new(openssl::hash::MessageDigest::sha256(), &key.software).unwrap();
        assert_eq!(signature, signer.sign_oneshot_to_vec(b"some octets").unwrap());
    }
}

#[test]
fn a_key_that_is_there_twice_is_one_key() {
    // As after an import that was repeated: the same key under two handles, and once more under another name.
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        hsm.token.write("document", "some octets");
        for key in [hsm.import_rsa(2048, "rsa"), hsm.import_ec("prime256v1", "ec")] {
            let pointer = keyfile::write_pointer(&Uri::parse(key.uri.as_bytes()).unwrap()).unwrap();
            let pointer = hsm.token.write("pointer.pem", pointer);
            let copy = hsm.token.write("copy.pem", key.software.private_key_to_pem_pkcs8().unwrap());
            let label = if key.uri.contains("rsa") { "rsa" } else { "ec" };
            for label in [label, "another name"] {
                let write = ["--write-object", &copy, "--type", "privkey", "--usage-sign", "--label", label];
                hsm.token.pkcs11_tool([&write[..], &["--id", "c0"]].concat()).succeeds();
            }
            for name in [&key.uri, &key.file, &pointer] {
                sign(&hsm, name).succeeds();
                let arguments = ["dgst", "-sha256", "-sign", name, "-out", "signature", "document"];
                hsm.openssl(arguments).succeeds();
                let verify = ["dgst", "-sha256", "-verify", &key.public_file, "-signature", "signature"];
                let verify = Program::stock_openssl(verify.iter().chain(&["document"]));
                verify.current_dir(hsm.token.directory()).succeeds();
            }
            let written = crate::keygen_and_keyfile::hsmkey(&hsm, &["keyfile", &key.uri]).succeeds();
            assert_eq!(written.stdout, fs::read(&key.file).unwrap());
        }
    }
}

#[test]
fn what_is_wrong_with_a_pointer_file_without_a_public_half_is_named() {
    // As pkcs11-provider writes them. OpenSSL drops what the last of several decoders says.
    let (hsm, _) = hsm();
    let pointer = |uri: &str| {
        let text = keyfile::write_pointer(&Uri::parse(uri.as_bytes()).unwrap()).unwrap();
        hsm.token.write("pointer.pem", text)
    };
    let right = pointer("pkcs11:token=test;type=private");
    sign(&hsm, &right).succeeds();
    let counts = hsm.recorder.counts();
    assert!(counts.requests() <= 8 && counts.calls() <= 12, "{:?}", counts.list("calls."));

    hsm.import_rsa(1024, "other");
    let said = refused(sign(&hsm, &right), Reason::KeyAmbiguous);
    assert!(said.contains("object=signing") && said.contains("object=other"), "{said}");
    refused(sign(&hsm, &pointer("pkcs11:object=absent")), Reason::KeyNotFound);
    refused(sign(&hsm, &pointer("pkcs11:token=elsewhere;object=signing")), Reason::TokenNotFound);
    let by_name = pointer("pkcs11:object=signing");
    hsm.token.write("pin", "crypto_user:not the password");
    hsm.recorder.reset();
    refused(sign(&hsm, &by_name), Reason::PinRejected);
    assert_eq!(logins(&hsm), 1);
    hsm.configure(&[]);
    refused(sign(&hsm, &by_name), Reason::PinMissing);
    hsm.configure(&[("hsmkey-sha1", "perhaps")]);
    refused(sign(&hsm, &by_name), Reason::BadDirective);
}

#[test]
fn a_key_file_of_another_public_half_signs_nothing() {
    let (hsm, _) = hsm();
    let stranger = openssl::rsa::Rsa::generate(2048).unwrap();
    let public = RsaPublicKey::new(&stranger.n().to_vec(), &stranger.e().to_vec());
    let uri = Uri::parse(b"pkcs11:object=signing").unwrap();
    let file = hsm.token.write("swapped.key", keyfile::write_reference(&public, &uri).unwrap());
    refused(sign(&hsm, &file), Reason::KeyMismatch);
    assert_eq!(hsm.recorder.counts().get("calls.C_Sign"), 0);
}

#[test]
fn a_module_that_is_none_is_named() {
    let (hsm, key) = hsm();
    let pin = format!("file:{}", hsm.token.pin_file());
    // The same file for another processor: ELF's e_machine is at offset 18.
    let mut foreign = fs::read(softhsm()).unwrap();
    foreign[18] = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    let foreign = hsm.token.write("foreign.so", foreign);
    // A file that ends too early would end the process when its missing part is touched.
    let whole = fs::read(softhsm()).unwrap();
    let cut = hsm.token.write("cut.so", &whole[..whole.len() / 2]);
    let text = hsm.token.write("text.so", "not a library");
    for (module, reason) in [
        (&cut[..], Reason::ModuleLoad),
        ("/nowhere/module.so", Reason::ModuleLoad),
        (&text, Reason::ModuleLoad),
        (&foreign, Reason::ModuleLoad),
        ("libc.so.6", Reason::ModuleInvalid),
    ] {
        hsm.configure(&[("pkcs11-module-token-pin", &pin), ("pkcs11-module-path", module)]);
        for name in [&key.file, &key.uri] {
            let said = refused(sign(&hsm, name), reason);
            assert!(said.contains(module), "{said}");
        }
    }
}

#[test]
fn a_module_that_cannot_connect_says_what_to_start() {
    let (hsm, key) = hsm();
    // The recorder refuses to start on settings that it does not know, as CloudHSM's library does without its configuration.
    hsm.recorder.settings("unknown = setting");
    let said = refused(sign(&hsm, &key.file), Reason::ModuleInitialise);
    assert!(said.contains("CKR_GENERAL_ERROR") && said.contains("CloudHSM"), "{said}");
}

#[test]
fn a_token_that_is_not_there_is_named() {
    let (hsm, key) = hsm();
    refused(sign(&hsm, "pkcs11:token=elsewhere;object=signing;type=private"), Reason::TokenNotFound);
    let elsewhere = key_file(&hsm, &key, "pkcs11:token=elsewhere;object=signing", "elsewhere.key");
    let said = refused(sign(&hsm, &elsewhere), Reason::TokenNotFound);
    assert!(said.contains("elsewhere"), "{said}");
    assert_eq!(logins(&hsm), 0);
}

#[test]
fn one_of_several_tokens_has_to_be_named_before_a_pin_is_sent() {
    let token = Token::new();
    token.initialise("other", "another pin");
    let hsm = Hsm::on(token);
    hsm.import_rsa(2048, "signing");
    hsm.token.write("document", "some octets");
    refused(sign(&hsm, "pkcs11:object=signing;type=private"), Reason::TokenAmbiguous);
    assert_eq!(logins(&hsm), 0);
    let pin = format!("file:{}", hsm.token.pin_file());
    hsm.configure(&[("pkcs11-module-token-pin", &pin), ("hsmkey-token", "pkcs11:token=test")]);
    sign(&hsm, "pkcs11:object=signing;type=private").succeeds();
}

#[test]
fn a_uri_that_is_none_is_named() {
    let (hsm, _) = hsm();
    for garbage in ["pkcs11:object", "pkcs11:object=%zz", "pkcs11:object=a;object=b", "pkcs11:colour=blue"] {
        refused(sign(&hsm, garbage), Reason::BadUri);
    }
    let said = refused(sign(&hsm, "pkcs11:object=%zz?pin-value=secret"), Reason::BadUri);
    // OpenSSL's own line may repeat what it was given; ours must not.
    let ours = said.lines().filter(|line| line.contains(Reason::BadUri.text()));
    assert!(ours.clone().count() > 0 && ours.clone().all(|line| !line.contains("secret")), "{said}");
    assert_eq!(hsm.recorder.processes(), 0);
}

#[test]
fn a_damaged_key_file_is_named_and_is_no_software_key() {
    let (hsm, key) = hsm();
    let file = fs::read(&key.file).unwrap();
    let pem = keyfile::first_block(&file).0;
    let der = pem_rfc7468::decode_vec(pem).unwrap().1;
    let rsa =
        |der: &[u8]| pem_rfc7468::encode_string("RSA PRIVATE KEY", pem_rfc7468::LineEnding::LF, der).unwrap();
    let mut later = der.clone();
    let marker = later.windows(9).position(|octets| octets == b"hsmkey:1:").unwrap();
    later[marker + 7] = b'2';
    let mut primes = der.clone();
    *primes.last_mut().unwrap() = 1;
    for (name, damaged) in [("cut", &der[..der.len() - 9]), ("later", &later), ("primes", &primes)] {
        let file = hsm.token.write(&format!("{name}.key"), rsa(damaged));
        refused(sign(&hsm, &file), Reason::BadKeyFile);
    }
    // Wherever it ends, once the lengths at its beginning say what it is.
    let block = pem.windows(5).position(|octets| octets == b"-----").unwrap();
    for length in [block + 100, pem.len() / 2, pem.len() * 3 / 4, pem.len() - 10] {
        let cut = hsm.token.write("shorter.key", &pem[..length]);
        refused(sign(&hsm, &cut), Reason::BadKeyFile);
    }
    let mut changed = pem.to_vec();
    changed[pem.len() / 2] = b'!';
    let changed = hsm.token.write("changed.key", changed);
    refused(sign(&hsm, &changed), Reason::BadKeyFile);
    assert_eq!(hsm.recorder.processes(), 0);
}

#[test]
fn a_pin_file_that_others_can_read_is_a_warning_and_no_error() {
    use std::os::unix::fs::PermissionsExt;
    let (hsm, key) = hsm();
    let log = hsm.token.path("log");
    let pin = format!("file:{}", hsm.token.pin_file());
    hsm.configure(&[("pkcs11-module-token-pin", &pin), ("hsmkey-log", &format!("file:{log}"))]);
    sign(&hsm, &key.file).succeeds();
    assert!(!fs::read_to_string(&log).unwrap_or_default().contains(&hsm.token.pin_file()));
    fs::set_permissions(hsm.token.pin_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let outcome = sign(&hsm, &key.file).succeeds();
    assert_eq!(outcome.stderr, "");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains(&hsm.token.pin_file()) && !said.contains(&hsm.token.pin), "{said}");
}

#[test]
fn without_any_module_the_directive_is_named() {
    let (hsm, key) = hsm();
    let text = fs::read_to_string(hsm.openssl_cnf()).unwrap();
    let path = format!("pkcs11-module-path = {}\n", Recorder::module().display());
    assert!(text.contains(&path));
    hsm.token.write("openssl.cnf", text.replace(&path, ""));
    let said = refused(sign(&hsm, &key.file), Reason::NoModule);
    assert!(said.contains("pkcs11-module-path"), "{said}");
}

#[test]
fn a_privileged_process_says_that_it_ignores_the_environment() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let (hsm, key) = hsm();
    // A program of another group, which the kernel calls secure (AT_SECURE) when root runs it.
    let program = hsm.token.path("privileged");
    fs::copy(c_program("configured"), &program).unwrap();
    if chown(&program, None, Some(65534)).is_err() {
        eprintln!("skipped: only root can make a program of another group");
        return;
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o2755)).unwrap();
    let run = || {
        let arguments = [&hsm.openssl_cnf()[..], &key.file];
        hsm.program(&program, arguments).env_remove("OPENSSL_CONF").under("setsid", ["--wait"])
    };
    run().succeeds();
    hsm.configure(&[]);
    let said = refused(run().env("CLOUDHSM_PIN", &hsm.token.pin), Reason::EnvironmentIgnored);
    assert!(said.contains("CLOUDHSM_PIN") && said.contains("AT_SECURE"), "{said}");
    let text = fs::read_to_string(hsm.openssl_cnf()).unwrap();
    let path = format!("pkcs11-module-path = {}\n", Recorder::module().display());
    hsm.token.write("openssl.cnf", text.replace(&path, ""));
    refused(run(), Reason::NoModule);
    let elsewhere = run().env("OPENSSL_CONF", "/home/somebody/openssl.cnf");
    let said = refused(elsewhere, Reason::EnvironmentIgnored);
    assert!(said.contains("OPENSSL_CONF is set"), "{said}");
}
