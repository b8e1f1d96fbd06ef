//! Programs in Python, PHP, Ruby and JavaScript: those of conf/programs.

use std::path::Path;

use crate::site::{Form, Site, by_engine, by_engine_id, every, installed, nobody_crashed};
use crate::support::{Program, Server, repository};
use crate::table::skipped;

/// A program with hsmkey. Ruby has a file of ours to read before it.
fn run(site: &Site, interpreter: &str, program: &str) -> Program {
    let first = repository().join("conf/hsmkey.rb");
    site.program(interpreter, &[program]).env("RUBYOPT", format!("-r{}", first.display()))
}

/// Runs a program that signs `document`, and verifies what it wrote.
fn signs(site: &Site, interpreter: &str, program: &str) {
    site.hsm.token.write("document", "some octets");
    let program = site.configure(program, &[]);
    run(site, interpreter, &program).succeeds();
    verified(site);
}

/// What a program wrote are signatures over `document`, and the HSM made them.
fn verified(site: &Site) {
    for (digest, file) in [("-sha1", "sha1.sig"), ("-sha256", "sha256.sig")] {
        let verify = ["dgst", digest, "-verify", &site.files.public_file, "-signature", file, "document"];
        Program::stock_openssl(verify).current_dir(site.path("")).succeeds();
    }
    site.signed(2);
}

/// Starts a program that is a server. It goes on serving when it is told to load the key anew.
fn serves(site: &Site, interpreter: &str, program: &str, reload: bool) {
    let program = site.configure(program, &[]);
    let server = Server::foreground(run(site, interpreter, &program), site.port, Path::new(&site.log));
    site.serve(&server, &site.http(), || {
        if reload {
            server.signal("HUP");
            site.until("reloaded", || server.said().contains("loaded again"));
        }
    });
    nobody_crashed(&server.stop("TERM"));
}

#[test]
fn python_serves_and_loads_the_key_again() {
    every("Python", "python3", Form::FILES, |site| serves(site, "python3", "programs/server.py", true));
}

#[test]
fn php_signs_and_issues_certificates() {
    every("PHP", "php", Form::FILES, |site| {
        signs(site, "php", "programs/sign.php");
        let verify = |arguments: &[&str]| {
            Program::stock_openssl(arguments).current_dir(site.path("")).succeeds();
        };
        verify(&["req", "-in", "request.pem", "-verify", "-noout"]);
        verify(&["verify", "-CAfile", "signed.pem", "-check_ss_sig", "signed.pem"]);
        site.signed(4);
    });
}

#[test]
fn python_serves_by_the_engine() {
    by_engine("Python", "python3", |site| serves(site, "python3", "programs/server.py", true));
}

#[test]
fn php_signs_by_the_engine() {
    by_engine("PHP", "php", |site| signs(site, "php", "programs/sign.php"));
}

/// Without hsmkey, a program that signs.
pub fn signs_nothing(site: &Site, interpreter: &str, program: &str) {
    site.hsm.token.write("document", "some octets");
    let program = site.configure(program, &[]);
    assert!(!site.program(interpreter, &[&program]).run().status.success());
    for file in ["sha1.sig", "sha256.sig"] {
        let written = std::fs::read(site.path(file)).unwrap_or_default();
        assert!(written.is_empty(), "{interpreter} wrote {file}");
    }
}

/// Without hsmkey, a program that is a server.
pub fn refuses(site: &Site, interpreter: &str, program: &str) {
    let program = site.configure(program, &[]);
    site.refuses(site.program(interpreter, &[&program]));
}

#[test]
fn node_signs_and_serves_and_loads_the_key_again() {
    every("Node.js", "node", Form::FILES, |site| {
        signs(site, "node", "programs/sign.js");
        serves(site, "node", "programs/server.js", true);
    });
}

#[test]
fn node_signs_and_serves_by_the_engine() {
    by_engine("Node.js", "node", |site| {
        signs(site, "node", "programs/sign.js");
        serves(site, "node", "programs/server.js", true);
    });
}

#[test]
fn ruby_signs_and_serves() {
    every("Ruby", "ruby", Form::FILES, |site| {
        signs(site, "ruby", "programs/sign.rb");
        serves(site, "ruby", "programs/server.rb", false);
    });
}

#[test]
fn ruby_knows_private_keys_from_public_ones() {
    every("Ruby", "ruby", Form::FILES, |site| {
        let script = "ARGV.each { |file| print OpenSSL::PKey.read(File.read(file)).private? ? 1 : 0 }";
        let elliptic = site.path("ec.key");
        Program::stock_openssl(["ecparam", "-genkey", "-name", "prime256v1", "-out", &elliptic]).succeeds();
        let files = [&site.key, &site.files.public_file, &site.files.software_file, &elliptic];
        let files = files.map(String::as_str);
        let first = repository().join("conf/hsmkey.rb");
        let arguments = [&["-r", first.to_str().expect("a path"), "-e", script][..], &files].concat();
        assert_eq!(site.program("ruby", &arguments).succeeds().text(), "1011");
        assert_eq!(site.hsm.recorder.counts().get("calls.C_Sign"), 0);
    });
}

#[test]
fn ruby_loads_a_key_by_the_engine_where_it_knows_engines() {
    let knows = Program::new("ruby", ["-ropenssl", "-e", "exit defined?(OpenSSL::Engine) ? 0 : 1"]);
    if installed("ruby").is_none() || !knows.run().status.success() {
        return skipped(
            "Ruby",
            "it has no OpenSSL::Engine, as Ruby has none where it is built with OpenSSL 3",
        );
    }
    by_engine_id("Ruby", "ruby", str::to_owned, |site| {
        site.hsm.token.write("document", "some octets");
        let script = "key = OpenSSL::Engine.by_id(\"hsmkey\").load_private_key(ARGV[0])\n\
                      %w[sha1 sha256].each { |d| File.binwrite(d + \".sig\", key.sign(d, File.binread(\"document\"))) }";
        site.program("ruby", &["-ropenssl", "-e", script, &site.key]).succeeds();
        verified(site);
    });
}

#[test]
fn ruby_needs_nothing_else_with_the_engine() {
    by_engine("Ruby", "ruby", |site| {
        let private = "k = OpenSSL::PKey.read(File.read(ARGV[0])); exit 1 unless k.private? && k.n > 0";
        site.program("ruby", &["-ropenssl", "-e", private, &site.key]).succeeds();
        site.hsm.token.write("document", "some octets");
        let program = site.configure("programs/sign.rb", &[]);
        site.program("ruby", &[&program]).succeeds();
        verified(site);
        let program = site.configure("programs/server.rb", &[]);
        let server = Server::foreground(site.program("ruby", &[&program]), site.port, Path::new(&site.log));
        site.serve(&server, &site.http(), || {});
        nobody_crashed(&server.stop("TERM"));
    });
}

/// What programs ask a key in the HSM (`key`), held against the same key in software (`same`) and its public half (`half`).
const QUESTIONS: &str = r#"
key, same, half = ARGV.map { |file| OpenSSL::PKey.read(File.read(file)) }
is = ->(what, fact) { fact or abort(what) }
is["private", key.private? && same.private? && !half.private?]
is["public", key.public? && same.public? && half.public?]
again = OpenSSL::PKey.read(key.to_pem)
is["its PEM", same.verify("SHA256", again.sign("SHA256", "x"), "x") && key.export == key.to_s]
is["a software key's PEM", OpenSSL::PKey.read(same.to_pem).to_der == same.to_der && OpenSSL::PKey.read(half.to_pem).compare?(half)]
is["its DER", begin key.to_der; false; rescue OpenSSL::PKey::PKeyError; true; end]
is["an encrypted PEM", begin key.to_pem(OpenSSL::Cipher.new("aes-128-cbc"), "secret"); false; rescue OpenSSL::PKey::PKeyError; true; end]
if key.oid == "rsaEncryption"
  is["its numbers", key.n == same.n && key.e == same.e && key.params["n"] == same.n && half.n == same.n]
  is["no secret numbers", %w[d p q dmp1 dmq1 iqmp].all? { |name| key.public_send(name).nil? && same.public_send(name) }]
  is["raw signatures", same.public_decrypt(key.private_encrypt("x")) == "x" && key.public_decrypt(same.private_encrypt("x")) == "x"]
  is["decryption", key.private_decrypt(key.public_encrypt("x")) == "x"]
else
  is["its group and point", key.group == same.group && key.public_key == same.public_key && half.public_key == same.public_key]
  is["no secret number", key.private_key.nil? && same.private_key && key.private_key? && key.public_key? && !half.private_key?]
  peer = OpenSSL::PKey::EC.generate("prime256v1")
  is["a common secret", key.dh_compute_key(peer.public_key) == peer.dh_compute_key(key.public_key)]
end
"#;

#[test]
fn ruby_gets_an_answer_to_every_question_about_a_key() {
    every("Ruby", "ruby", Form::FILES, |site| {
        let first = repository().join("conf/hsmkey.rb");
        let files = [&site.key, &site.files.software_file, &site.files.public_file].map(String::as_str);
        let arguments = [&["-r", first.to_str().expect("a path"), "-e", QUESTIONS][..], &files].concat();
        site.program("ruby", &arguments).succeeds();
    });
}

/// The same for Node.js: a key in the HSM (`key`), in software (`same`), and its public half (`half`).
const NODE_QUESTIONS: &str = r#"
const assert = require("assert"), crypto = require("crypto"), fs = require("fs");
const [file, software, open] = process.argv.slice(1).map((name) => fs.readFileSync(name));
const key = crypto.createPrivateKey(file), same = crypto.createPrivateKey(software), half = crypto.createPublicKey(open);
assert.deepStrictEqual(key.asymmetricKeyDetails, same.asymmetricKeyDetails);
for (const of of [key, file, { key }, { key: file }]) {
  const made = crypto.createPublicKey(of);
  assert.deepStrictEqual(made.asymmetricKeyDetails, half.asymmetricKeyDetails);
  assert.deepStrictEqual(made.export({ format: "jwk" }), half.export({ format: "jwk" }));
}
assert.throws(() => key.export({ format: "jwk" }), /stays in the HSM/);
assert.ok(same.export({ format: "jwk" }).d);
const data = Buffer.from("some octets");
const signed = (made, dsaEncoding) => assert.ok(crypto.verify("sha256", data, { key: half, dsaEncoding }, made));
// DER's numbers differ in length from one signature to the next.
for (let round = 0; round < 20; round++) {
  for (const dsaEncoding of ["der", "ieee-p1363"]) {
    for (const of of [key, file]) {
      signed(crypto.sign("sha256", data, { key: of, dsaEncoding }), dsaEncoding);
      signed(crypto.createSign("sha256").update(data).sign({ key: of, dsaEncoding }), dsaEncoding);
      signed(Buffer.from(crypto.createSign("sha256").update(data).sign({ key: of, dsaEncoding }, "hex"), "hex"), dsaEncoding);
    }
    crypto.sign("sha256", data, { key, dsaEncoding }, (error, made) => signed(made, dsaEncoding));
    signed(crypto.sign("sha256", data, { key: same, dsaEncoding }), dsaEncoding);
  }
}
signed(crypto.sign("sha256", data, key));
assert.throws(() => crypto.sign("sha256", data, "no key"));
assert.throws(() => crypto.createPublicKey("no key"));
"#;

#[test]
fn node_gets_an_answer_to_every_question_about_a_key() {
    every("Node.js", "node", Form::FILES, |site| {
        let first = repository().join("conf/hsmkey.js");
        let files = [&site.key, &site.files.software_file, &site.files.public_file].map(String::as_str);
        let arguments = [&["--require", first.to_str().expect("a path"), "-e", NODE_QUESTIONS][..], &files];
        site.program("node", &arguments.concat()).succeeds();
    });
}
