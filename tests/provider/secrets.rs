//! A PIN that somebody has written into a key file stands in a process's memory once: where it is kept for the HSM, and so that it is
//! known again, should the HSM reject it.

use hsmkey::asn1::{SEQUENCE, UTF8_STRING, VISIBLE_STRING, element};
use hsmkey::keyfile::{POINTER_DESCRIPTION, POINTER_LABEL};
use hsmkey::uri::Uri;

use crate::support::{Hsm, OpenSsl, compile};

/// A pointer file with a PIN in it, as others write them.
fn pointer(hsm: &Hsm, uri: &str) -> String {
    let description = element(VISIBLE_STRING, &[POINTER_DESCRIPTION.as_bytes()]);
    let der = element(SEQUENCE, &[&description, &element(UTF8_STRING, &[uri.as_bytes()])]);
    let pem = pem_rfc7468::encode_string(POINTER_LABEL, pem_rfc7468::LineEnding::LF, &der).unwrap();
    hsm.token.write("with-pin.key", pem)
}

#[test]
fn a_pin_in_a_key_file_is_kept_once() {
    let hsm = Hsm::new();
    let key = hsm.import_ec("prime256v1", "secret");
    let pin = "no-other-text-is-like-this-PIN-9137";
    let public = hsmkey::spki::spki_to_public(&key.software.public_key_to_der().unwrap()).unwrap();
    let uri = Uri { public: Some(public), ..key.uri.parse().unwrap() }.to_string();
    let file = pointer(&hsm, &uri.replacen('?', &format!("?pin-value={pin}&"), 1));
    let complement: String = pin.bytes().map(|octet| format!("{:02x}", !octet)).collect();
    for openssl in OpenSsl::with_providers() {
        let counted = hsm.program(compile("secrets", &openssl), [&file, &complement]).succeeds();
        assert_eq!(counted.text(), "0 1 1\n", "{}", openssl.version);
    }
    assert_eq!(hsm.recorder.counts().calls(), 0);
}
