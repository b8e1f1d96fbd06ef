//! Keys in NSS's database. Its module shows two tokens: one for certificates and keys, which wants a password only where it was given
//! one, and one without keys, which wants none.

use std::path::Path;

use crate::support::{Hsm, Program};

/// A database with a key `signing` and its certificate, hsmkey configured for it, and the key's URI, which names no token.
fn database(password: Option<&str>, directives: &[(&str, &str)]) -> (Hsm, String) {
    let hsm = Hsm::new();
    let database = hsm.token.path("nss");
    std::fs::create_dir(&database).unwrap();
    let (noise, password) =
        (hsm.token.write("noise", [7; 64]), hsm.token.write("pin", password.unwrap_or("")));
    let certutil = |arguments: &str| {
        let arguments = arguments.split(' ').chain(["-d", &database, "-f", &password, "-z", &noise]);
        Program::new("certutil", arguments).succeeds()
    };
    certutil("-N");
    certutil("-S -x -n signing -s CN=signing -t ,, -k rsa -g 2048");
    let listed = certutil("-K");
    let id = listed.text().split_whitespace().find(|word| word.len() == 40).expect("CKA_ID in hexadecimal");
    let id: String =
        id.as_bytes().chunks(2).map(|octet| format!("%{}", std::str::from_utf8(octet).unwrap())).collect();
    let arguments =
        format!("configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=readOnly");
    let module = softokn();
    let common = [("pkcs11-module-path", &*module), ("pkcs11-module-init-args", &arguments)];
    hsm.configure(&[&common[..], directives].concat());
    (hsm, format!("pkcs11:id={id}"))
}

/// NSS's PKCS#11 module.
fn softokn() -> String {
    let multiarch = format!("/usr/lib/{}-linux-gnu/", std::env::consts::ARCH);
    [&*multiarch, &format!("{multiarch}nss/"), "/usr/lib64/"]
        .map(|directory| format!("{directory}libsoftokn3.so"))
        .into_iter()
        .find(|module| Path::new(module).exists())
        .expect("NSS is not installed: scripts/prerequisites test")
}

/// Signs with the key and verifies with the certificate, both by a URI; stock OpenSSL verifies too.
fn signs(hsm: &Hsm, uri: &str) {
    let run = |arguments: &str| {
        hsm.openssl(arguments.split(' ')).current_dir(hsm.token.directory()).stdin("").succeeds()
    };
    hsm.token.write("document", "some octets");
    let said = run(&format!("dgst -sha1 -sign {uri} -out signature document"));
    assert_eq!(said.stderr, "", "nobody is asked for anything");
    run(&format!("x509 -in {uri};type=cert -noout -pubkey -out public.pem"));
    let verify = ["dgst", "-sha1", "-verify", "public.pem", "-signature", "signature", "document"];
    Program::stock_openssl(verify).current_dir(hsm.token.directory()).succeeds();
}

#[test]
fn a_database_without_a_password_asks_for_none() {
    let (hsm, uri) = database(None, &[]);
    signs(&hsm, &uri);
    signs(&hsm, &uri.replace("pkcs11:", "pkcs11:token=NSS%20Certificate%20DB;"));
    let listed = hsm.openssl(["storeutl", "-noout", "pkcs11:"]).stdin("").succeeds();
    for (number, kind) in ["Pkey", "Public key", "Certificate"].iter().enumerate() {
        assert!(listed.text().contains(&format!("{number}: {kind}")), "{}", listed.text());
    }
    assert_eq!(listed.stderr, "");
}

#[test]
fn a_password_goes_to_the_token_that_wants_one() {
    let password = "a password";
    let (hsm, uri) = database(Some(password), &[]);
    let pin = format!("file:{}", hsm.token.pin_file());
    hsm.openssl(["dgst", "-sha1", "-sign", &uri, "/dev/null"]).stdin("").fails();
    let (hsm, uri) = database(Some(password), &[("pkcs11-module-token-pin", &pin)]);
    signs(&hsm, &uri);
}
