//! Writing a private key: as a key file of ours, and as text for people.
//!
//! The public half is exported, and the default provider's encoders write it in every form. They cannot have the private half, so whatever
//! else they are asked for (PKCS#8 and PKCS#12 in DER, encrypted files) ends at the key manager's export, with `KeyStaysInHsm` on the
//! application's queue. What stands for the key where a program writes a private key in PEM is the same file that `hsmkey keyfile` makes,
//! whether PKCS#8 or the traditional form was asked for: both are read by every program that reads one of them.

use std::fmt::Write;

use super::Provider;
use super::key::Key;
use crate::error::{Result, bail};
use crate::keyfile;
use crate::openssl::operation::Selection;
use crate::openssl::operation::encoder::Encoder;
use crate::public::{EcPublicKey, PssParams, PublicKey, RsaPublicKey};
use crate::uri::Uri;

/// `output=pem`.
pub(super) struct Pem;

/// `output=text`.
pub(super) struct Text;

impl Encoder for Pem {
    type Provider = Provider;
    type Key = Key;

    fn does(selection: Selection) -> bool {
        selection.private()
    }

    fn encode(key: &Key, encrypted: bool) -> Result<String> {
        let key = key.key()?;
        if encrypted {
            bail!(KeyStaysInHsm, "there is nothing to encrypt in its key file; write it without a cipher");
        }
        key_file(key.public(), key.pss(), &Uri::parse(key.address().as_bytes())?)
    }
}

impl Encoder for Text {
    type Provider = Provider;
    type Key = Key;

    fn does(selection: Selection) -> bool {
        selection.private()
    }

    fn encode(key: &Key, _encrypted: bool) -> Result<String> {
        let layout = Layout::of(key.provider().version);
        let key = key.key()?;
        Ok(layout.describe(key.public(), key.address()))
    }
}

/// The reference form where the key is RSA and its address fits, else the pointer form.
fn key_file(public: &PublicKey, pss: Option<&PssParams>, uri: &Uri) -> Result<String> {
    keyfile::write(public, pss, uri)
        .or_else(|_| keyfile::write_pointer(&Uri { public: Some(public.clone()), ..uri.clone() }))
}

/// How OpenSSL prints numbers.
struct Layout {
    /// Octets to a line.
    width: usize,
    /// Whether a number whose top bit is set gets a zero before it.
    signed: bool,
}

impl Layout {
    /// That of a version: programs that read the text of one key read that of another.
    fn of(version: (u32, u32)) -> Self {
        if version < (4, 0) { Self { width: 15, signed: true } } else { Self { width: 16, signed: false } }
    }

    /// OpenSSL's lines about a private key, as far as they can be had, and the address in place of the rest.
    fn describe(&self, public: &PublicKey, address: &str) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = match public {
            PublicKey::Rsa(rsa) => self.rsa(rsa, &mut text),
            PublicKey::Ec(ec) => self.ec(ec, &mut text),
            PublicKey::Ed25519(key) => {
                text.push_str("ED25519 Private-Key: (in an HSM)\npub:\n");
                self.octets(&key.0, &mut text)
            }
        };
        text + "address: " + address + "\n"
    }

    fn rsa(&self, rsa: &RsaPublicKey, text: &mut String) -> std::fmt::Result {
        writeln!(text, "Private-Key: ({} bit, in an HSM)", rsa.bits())?;
        self.number("modulus", &rsa.modulus, text)?;
        self.number("publicExponent", &rsa.exponent, text)
    }

    fn ec(&self, ec: &EcPublicKey, text: &mut String) -> std::fmt::Result {
        let curve = ec.curve().ok();
        match curve {
            Some(curve) => writeln!(text, "Private-Key: ({} bit, in an HSM)", curve.bits)?,
            None => writeln!(text, "Private-Key: (in an HSM)")?,
        }
        text.push_str("pub:\n");
        self.octets(&ec.point, text)?;
        match curve {
            Some(curve) => writeln!(text, "ASN1 OID: {}", curve.name.to_string_lossy()),
            None => Ok(()),
        }
    }

    /// A non-negative number: decimal where a machine's word holds it.
    fn number(&self, label: &str, big_endian: &[u8], text: &mut String) -> std::fmt::Result {
        if big_endian.len() <= size_of::<u64>() {
            let value = big_endian.iter().fold(0_u64, |value, octet| value << 8 | u64::from(*octet));
            return writeln!(text, "{label}: {value} (0x{value:x})");
        }
        writeln!(text, "{label}:")?;
        let sign = if self.signed && big_endian[0] & 0x80 != 0 { &[0][..] } else { &[] };
        self.octets(&[sign, big_endian].concat(), text)
    }

    fn octets(&self, octets: &[u8], text: &mut String) -> std::fmt::Result {
        let mut lines = octets.chunks(self.width).peekable();
        while let Some(line) = lines.next() {
            let line: Vec<String> = line.iter().map(|octet| format!("{octet:02x}")).collect();
            let end = if lines.peek().is_some() { ":" } else { "" };
            writeln!(text, "    {}{end}", line.join(":"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_does_not_fit_into_the_number_goes_into_a_pointer() {
        let rsa = PublicKey::Rsa(RsaPublicKey::new(&[0xc5; 128], &[1, 0, 1]));
        let uri = |label: &str| Uri { object: Some(label.into()), ..Uri::default() };
        let short = key_file(&rsa, None, &uri("signing")).unwrap();
        assert!(short.contains("-----BEGIN RSA PRIVATE KEY-----"), "{short}");
        let long = key_file(&rsa, None, &uri(&"l".repeat(200))).unwrap();
        assert!(long.contains("-----BEGIN PKCS#11 PROVIDER URI-----"), "{long}");
        let curve = vec![6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
        let ec = PublicKey::Ec(EcPublicKey { params: curve, point: [&[4][..], &[7; 64]].concat() });
        let file = key_file(&ec, None, &uri("signing")).unwrap();
        assert!(file.contains("-----BEGIN PKCS#11 PROVIDER URI-----"), "{file}");
        let text = Layout::of((3, 0)).describe(&ec, "pkcs11:object=signing");
        assert!(text.ends_with("ASN1 OID: prime256v1\naddress: pkcs11:object=signing\n"), "{text}");
    }

    #[test]
    fn an_exponent_that_no_word_holds_is_shown_in_octets() {
        let mut text = String::new();
        Layout::of((3, 5)).number("publicExponent", &[0x80, 1, 2, 3, 4, 5, 6, 7, 8], &mut text).unwrap();
        assert_eq!(text, "publicExponent:\n    00:80:01:02:03:04:05:06:07:08\n");
    }
}
