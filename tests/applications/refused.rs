//! Applications that ask for private numbers, which a provider's key can never give. That they fail is seen here, and how: with no
//! crash and nothing written. docs/applications.md names the lines of theirs that ask. With the engine they work.

use std::fs;

use crate::site::{Form, Site, by_engine, none};
use crate::support::Program;

/// The command of docs/applications.md.
pub const XMLSEC1: &str =
    "xmlsec1 --sign --privkey-pem /etc/pki/server.key,/etc/pki/server.pem --output signed.xml template.xml";
/// The command of docs/applications.md.
pub const OPENDKIM: &str = "opendkim-testmsg -d example.com -s selector -k /etc/pki/server.key";

const RSA_SHA1: &str = "http://www.w3.org/2000/09/xmldsig#rsa-sha1";
const RSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256";

const TEMPLATE: &str = r#"<?xml version="1.0"?>
<Document><Data>some octets</Data><Signature xmlns="http://www.w3.org/2000/09/xmldsig#"><SignedInfo>
<CanonicalizationMethod Algorithm="http://www.w3.org/TR/2001/REC-xml-c14n-20010315"/><SignatureMethod Algorithm="METHOD"/>
<Reference URI=""><Transforms><Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/></Transforms>
<DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/><DigestValue/></Reference>
</SignedInfo><SignatureValue/><KeyInfo><X509Data/></KeyInfo></Signature></Document>
"#;

/// Runs a command with hsmkey on the site's key, and without hsmkey on the same key in software, which has to work.
fn only_software(site: &Site, command: &str, input: &str) -> Program {
    let software = site.here(&command.replace("/etc/pki/server.key", &site.files.software_file));
    let words: Vec<&str> = software.split(' ').collect();
    Program::new(words[0], &words[1..]).current_dir(site.path("")).stdin(input).succeeds();
    on_hsm(site, command, input)
}

/// Runs a command with hsmkey.
fn on_hsm(site: &Site, command: &str, input: &str) -> Program {
    let command = site.here(command);
    let words: Vec<&str> = command.split(' ').collect();
    site.program(words[0], &words[1..]).stdin(input)
}

#[test]
fn xmlsec1_takes_a_key_of_a_provider_for_a_public_one() {
    none("xmlsec1", "xmlsec1", Form::FILES, |site| {
        for method in [RSA_SHA1, RSA_SHA256] {
            site.hsm.token.write("template.xml", TEMPLATE.replace("METHOD", method));
            let program = only_software(site, XMLSEC1, "");
            let verify = ["--verify", "--trusted-pem", &site.certificate, "signed.xml"];
            Program::new("xmlsec1", verify).current_dir(site.path("")).succeeds();
            fs::remove_file(site.path("signed.xml")).expect("it was written");
            assert!(program.fails().stderr.contains("key is not found"));
            assert!(!fs::exists(site.path("signed.xml")).expect("a directory of ours"));
        }
        assert_eq!(site.hsm.recorder.counts().get("calls.C_Sign"), 0);
    });
}

/// The command on the key file without the comment before it: OpenDKIM takes a file for PEM only where it begins so.
fn opendkim(site: &Site) -> String {
    OPENDKIM.replace("/etc/pki/server.key", &bare_key(site))
}

/// The key file without the comment before it.
pub fn bare_key(site: &Site) -> String {
    let file = fs::read_to_string(&site.key).expect("a key file");
    let begin = file.find("-----BEGIN").expect("a PEM block");
    site.hsm.token.write("bare.key", &file[begin..])
}

const MAIL: &str =
    "From: a@example.com\r\nTo: b@example.com\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\r\nsome octets\r\n";

#[test]
fn opendkim_wants_a_legacy_rsa_object() {
    none("OpenDKIM", "opendkim-testmsg", Form::FILES, |site| {
        let software = OPENDKIM.replace("/etc/pki/server.key", &site.files.software_file);
        only_software(site, &software, MAIL);
        on_hsm(site, &opendkim(site), MAIL).fails();
        assert_eq!(site.hsm.recorder.counts().get("calls.C_Sign"), 0);
    });
}

/// Without hsmkey.
pub fn xmlsec1_refuses(site: &Site) {
    site.hsm.token.write("template.xml", TEMPLATE.replace("METHOD", RSA_SHA256));
    on_hsm(site, XMLSEC1, "").fails();
    let written = fs::read_to_string(site.path("signed.xml")).unwrap_or_default();
    assert!(!written.contains("<SignatureValue>"), "{written}");
}

/// Without hsmkey. Once it has said that it cannot sign, opendkim-testmsg itself crashes.
pub fn opendkim_refuses(site: &Site) {
    let failed = on_hsm(site, &opendkim(site), MAIL).run();
    assert!(!failed.status.success() && failed.stdout.is_empty() && !failed.stderr.is_empty(), "{failed}");
}

#[test]
fn xmlsec1_signs_through_the_engine() {
    by_engine("xmlsec1", "xmlsec1", |site| {
        for method in [RSA_SHA1, RSA_SHA256] {
            site.hsm.token.write("template.xml", TEMPLATE.replace("METHOD", method));
            only_software(site, XMLSEC1, "").succeeds();
            let verify = ["--verify", "--trusted-pem", &site.certificate, "signed.xml"];
            Program::new("xmlsec1", verify).current_dir(site.path("")).succeeds();
        }
        site.signed(2);
    });
}

#[test]
fn opendkim_signs_through_the_engine() {
    by_engine("OpenDKIM", "opendkim-testmsg", |site| {
        let signed = on_hsm(site, &opendkim(site), MAIL).succeeds();
        assert!(signed.text().starts_with("DKIM-Signature:"), "{signed}");
        site.signed(1);
    });
}
