//! libp11's users change the path of the engine: what they have configured and what they call gives what libp11's engine gives.

use std::path::Path;

use openssl::pkey::PKey;
use openssl::rsa::Rsa;

use crate::signing::{in_software, set_up};
use crate::support::{Hsm, Program, Recorder, provider};

/// libp11's engine for the system's OpenSSL.
fn libp11() -> String {
    let version = Program::stock_openssl(["version", "-e"]).succeeds();
    let directory = version.text().split('"').nth(1).expect("ENGINESDIR: \"...\"").to_owned();
    let engine = format!("{directory}/pkcs11.so");
    assert!(Path::new(&engine).exists(), "libp11's engine is not installed: scripts/prerequisites test");
    engine
}

/// An engine's section as libp11's documentation has it.
fn configure(hsm: &Hsm, library: &str, more: &[(&str, &str)]) {
    let module = Recorder::module().display().to_string();
    let lines = [
        ("engine_id", "pkcs11"),
        ("dynamic_path", library),
        ("MODULE_PATH", &module),
        ("PIN", &hsm.token.pin),
    ];
    hsm.configure_engine(&[&lines[..], more, &[("init", "0")]].concat());
}

/// What a command writes and how it ends: with libp11's engine, then with ours.
fn both(hsm: &Hsm, arguments: &[&str]) -> [(Option<i32>, Vec<u8>); 2] {
    let ours = provider().display().to_string();
    // libp11's engine calls itself so.
    [(libp11(), &[][..]), (ours, &[("ID", "pkcs11")])].map(|(library, more)| {
        configure(hsm, &library, more);
        let outcome = hsm.openssl(arguments).run();
        (outcome.status.code(), outcome.stdout)
    })
}

/// A key, what was encrypted for it, and the number of its slot.
fn setting() -> (Hsm, String) {
    let (hsm, key) = set_up(Hsm::new());
    for padding in ["pkcs1", "oaep"] {
        let encrypt = ["pkeyutl", "-encrypt", "-pubin", "-inkey", &key.public_file, "-in", "document"];
        let padding_option = format!("rsa_padding_mode:{padding}");
        in_software(&hsm, &[&encrypt[..], &["-out", padding, "-pkeyopt", &padding_option]].concat());
    }
    in_software(&hsm, &["dgst", "-sha256", "-binary", "-out", "value", "document"]);
    in_software(&hsm, &["dgst", "-sha256", "-sign", &key.software_file, "-out", "signature", "document"]);
    let slots = hsm.token.softhsm2_util(["--show-slots"]).succeeds();
    let slot = slots.text().lines().find_map(|line| line.strip_prefix("Slot ")).unwrap().trim().to_owned();
    (hsm, slot)
}

#[test]
fn every_command_writes_what_it_writes_with_libp11s_engine() {
    let (hsm, _) = setting();
    for command in [
        "rsa -inform engine -in pkcs11:id=%a1 -pubout",
        "rsa -inform engine -pubin -in pkcs11:id=%a1 -pubout",
        "pkey -inform engine -pubin -in pkcs11:id=%a1;type=public -pubout",
        "pkey -inform engine -in a1 -text_pub -noout",
        "pkey -inform engine -in a1",
        "req -new -keyform engine -key a1 -subj /CN=x -batch",
        "pkeyutl -decrypt -keyform engine -inkey a1 -in pkcs1",
        "pkeyutl -decrypt -keyform engine -inkey a1 -in oaep -pkeyopt rsa_padding_mode:oaep",
        "pkeyutl -sign -keyform engine -inkey a1 -in value -pkeyopt digest:sha256",
        "pkeyutl -sign -keyform engine -inkey a1 -in value",
        "rsautl -sign -keyform engine -inkey a1 -in value",
        "rsautl -decrypt -keyform engine -inkey a1 -in pkcs1",
        "dgst -sha1 -keyform engine -sign a1 document",
        "dgst -sha512 -keyform engine -sign a1 document",
        "dgst -sha256 -keyform engine -verify pkcs11:id=%a1 -signature signature document",
        "dgst -sha256 -keyform engine -prverify a1 -signature signature document",
    ] {
        let (name, options) = command.split_once(' ').unwrap();
        let arguments: Vec<&str> =
            [name, "-engine", "pkcs11"].into_iter().chain(options.split(' ')).collect();
        let [theirs, ours] = both(&hsm, &arguments);
        assert!(theirs == ours, "{command}: {:?} and {:?}", theirs.0, ours.0);
    }
    let by_uri = ["dgst", "-sha1", "-sign", "org.openssl.engine:pkcs11:a1", "document"];
    let [theirs, ours] = both(&hsm, &by_uri);
    assert!(theirs == ours && ours.0 == Some(0));
}

#[test]
fn libp11s_controls_have_the_numbers_that_they_have_there() {
    let (hsm, _) = setting();
    // With -vvvv the command lists all, in the order of their numbers, which begin at the same one for every engine.
    let names = |text: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(text);
        let lines = text.lines().filter_map(|line| line.strip_prefix("     "));
        let names = lines.filter_map(|line| line.split_once(": ")).map(|(name, _)| name.to_owned());
        names.filter(|name| !name.starts_with(' ')).collect()
    };
    let [theirs, ours] = both(&hsm, &["engine", "pkcs11", "-vvvv"]);
    let (theirs, ours) = (names(&theirs.1), names(&ours.1));
    assert!(theirs.len() > 10 && ours.starts_with(&theirs), "{theirs:?} and {ours:?}");
}

#[test]
fn every_id_of_libp11s_names_the_same_key() {
    let (hsm, slot) = setting();
    let software = std::fs::read(hsm.token.path("signature")).unwrap();
    hsm.import_rsa(2048, "another");
    let fresh = || PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    hsm.token.import(&fresh(), "third", "b2");
    hsm.token.import(&fresh(), "my key", "c3");
    let ids = [
        "pkcs11:object=engine-key".to_owned(),
        "pkcs11:object=engine-key;type=private".into(),
        "pkcs11:object=my%20key".into(),
        "pkcs11:id=%C3".into(),
        "pkcs11:id=%b2;object=third".into(),
        format!(
            "pkcs11:token=test;object=engine-key?pin-value={}",
            hsm.token.pin.replace(':', "%3a").replace(' ', "%20")
        ),
        "pkcs11:model=SoftHSM%20v2;object=engine-key".into(),
        "pkcs11:manufacturer=SoftHSM%20project;object=engine-key".into(),
        format!("slot_{slot}-id_c3"),
        format!("slot_{slot}-label_engine-key"),
        format!("slot_{slot}-label_my key"),
        "label_engine-key".into(),
        "label_my key".into(),
        "id_c3".into(),
        "c3".into(),
        "C3".into(),
        format!("{slot}:c3"),
    ];
    for id in &ids {
        let sign = ["dgst", "-sha256", "-engine", "pkcs11", "-keyform", "engine", "-sign", id, "document"];
        let [theirs, ours] = both(&hsm, &sign);
        assert!(theirs == ours && ours.0 == Some(0), "{id}: {:?} and {:?}", theirs.0, ours.0);
        assert_eq!(ours.1 == software, id.contains("engine-key"), "{id}");
    }
}
