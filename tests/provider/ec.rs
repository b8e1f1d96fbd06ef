//! EC keys in the HSM: what they sign verifies with stock OpenSSL and the public key.

use std::fs;

use crate::support::{Hsm, Key, Program};

pub const CURVES: [&str; 4] = ["prime256v1", "secp384r1", "secp521r1", "secp256k1"];

const DIGESTS: [&str; 15] = [
    "-md5",
    "-sha1",
    "-sha224",
    "-sha256",
    "-sha384",
    "-sha512",
    "-sha512-224",
    "-sha512-256",
    "-sha3-224",
    "-sha3-256",
    "-sha3-384",
    "-sha3-512",
    "-ripemd160",
    "-blake2b512",
    "-sm3",
];

/// A stock OpenSSL in the token's directory.
pub fn stock(hsm: &Hsm, arguments: &[&str]) -> Program {
    Program::stock_openssl(arguments).current_dir(hsm.token.directory())
}

/// Signs with hsmkey, verifies without.
fn signs(hsm: &Hsm, key: &Key, name: &str, digest: &str) {
    let signed = hsm.openssl(["dgst", digest, "-sign", name, "-out", "signature", "document"]).succeeds();
    assert_eq!((signed.text(), &*signed.stderr), ("", ""), "{signed}");
    stock(hsm, &["dgst", digest, "-verify", &key.public_file, "-signature", "signature", "document"])
        .succeeds();
}

#[test]
fn every_curve_and_digest_signs_by_key_file_and_by_uri() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        hsm.token.write("document", "some octets");
        for curve in CURVES {
            let key = hsm.import_ec(curve, curve);
            for digest in DIGESTS {
                signs(&hsm, &key, &key.file, digest);
            }
            for digest in ["-sha1", "-sha256"] {
                signs(&hsm, &key, &key.uri, digest);
            }
        }
    }
}
