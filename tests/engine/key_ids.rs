//! Which key an id names, and what is said where it names none or several.

use hsmkey::keyfile::write_pointer;
use hsmkey::uri::Uri;

use crate::signing::{in_software, setting};
use crate::support::{Hsm, OpenSsl};

/// The reason's number of hsmkey.h in what the openssl command prints of the error queue.
fn reasons(stderr: &str) -> Vec<u32> {
    let codes = stderr.lines().filter(|line| line.contains("hsmkey engine")).filter_map(|line| {
        let code = line.split(':').nth(2)?;
        u32::from_str_radix(code, 16).ok()
    });
    // ERR_GET_REASON of our numbers in either version: they are below 1 << 12.
    codes.map(|code| code & 0xfff).collect()
}

/// The slot that the token has got.
fn slot(hsm: &Hsm) -> String {
    let slots = hsm.token.softhsm2_util(["--show-slots"]).succeeds();
    let number = slots.text().lines().find_map(|line| line.strip_prefix("Slot ")).unwrap();
    number.trim().to_owned()
}

#[test]
fn every_form_of_an_id_finds_the_key() {
    let (hsm, key) = setting();
    let slot = slot(&hsm);
    let uri = Uri::parse(key.uri.as_bytes()).unwrap();
    let pointer = hsm.token.write("pointer.pem", write_pointer(&uri).unwrap());
    let software = in_software(&hsm, &["dgst", "-sha1", "-sign", &key.software_file, "document"]);
    let ids = [
        key.uri.clone(),
        format!("pkcs11:object=engine-key?pin-source=file:{}", hsm.token.pin_file()),
        pointer,
        // A file of the working directory.
        "pointer.pem".into(),
        key.file.clone(),
        "label_engine-key".into(),
        "engine-key".into(),
        "id_a1".into(),
        "id_A1".into(),
        "a1".into(),
        format!("slot_{slot}-id_a1"),
        format!("slot_{slot}-label_engine-key"),
        format!("slot_{slot}"),
        format!("{slot}:a1"),
        // The only key there is.
        format!("{slot}:"),
        "pkcs11:".into(),
    ];
    for openssl in OpenSsl::with_engines() {
        for id in &ids {
            let sign = ["dgst", "-engine", "hsmkey", "-keyform", "engine", "-sha1", "-sign", id];
            let sign = openssl.with(&hsm, sign.iter().chain(&["-out", "signature", "document"]));
            sign.succeeds();
            let signature = std::fs::read(hsm.token.path("signature")).unwrap();
            assert!(signature == software, "{} {id}", openssl.version);
        }
    }
}

#[test]
fn an_id_that_names_no_key_or_several_is_an_error_that_says_which_there_are() {
    let (hsm, _) = setting();
    hsm.import_rsa(2048, "another");
    // Its label is the other keys' id.
    hsm.token.import(&hsm.import_rsa(2048, "a-third").software, "a1", "b2");
    for openssl in OpenSsl::with_engines() {
        for (id, reason, shown) in [
            ("label_nobody", 150, ["object=engine-key", "object=another"]),
            ("nobody", 150, ["object=engine-key", "object=another"]),
            ("slot_77-id_a1", 143, ["slot-id=77", "token"]),
            ("id_a1", 151, ["object=engine-key", "object=another"]),
            ("a1", 151, ["object=engine-key", "object=a1"]),
            ("slot_1-nonsense", 102, ["slot_1-nonsense", "label_"]),
            ("pkcs11:nonsense", 120, ["character", "attribute"]),
            ("/no/such/file", 121, ["/no/such/file", "read"]),
        ] {
            let sign = ["dgst", "-engine", "hsmkey", "-keyform", "engine", "-sha1", "-sign", id, "document"];
            let failed = openssl.with(&hsm, sign).run();
            assert!(!failed.status.success(), "{failed}");
            assert_eq!(reasons(&failed.stderr), [reason], "{} {id}: {failed}", openssl.version);
            assert!(shown.iter().all(|text| failed.stderr.contains(text)), "{failed}");
        }
    }
    assert_eq!(hsm.recorder.counts().get("calls.C_Sign"), 0);
}
