//! RSASSA-PSS where the token has only CKM_RSA_X_509: the block is encoded here.

use crate::support::{Hsm, Program};

#[test]
fn a_token_without_pss_signs_the_block_that_is_encoded_here() {
    let hsm = Hsm::cloudhsm();
    hsm.token.write("document", "some octets");
    // Of 2049 bits the block is an octet shorter than the modulus, of the others its first octet has bits that have to be clear.
    for bits in [2048, 2049, 2050, 2055] {
        let key = hsm.import_rsa(bits, &format!("rsa{bits}"));
        for (digest, salt, mask) in [
            ("-sha256", "digest", "sha256"),
            ("-sha1", "max", "sha1"),
            ("-sha512", "0", "sha512"),
            ("-sha384", "20", "sha1"),
            ("-sha3-256", "digest", "sha3-256"),
        ] {
            for name in [&key.file, &key.uri] {
                // CKR_MECHANISM_INVALID for the first mechanism that is asked for.
                hsm.recorder.control("error on=C_SignInit once code=0x70");
                hsm.recorder.reset();
                let (salt, mask) = (format!("rsa_pss_saltlen:{salt}"), format!("rsa_mgf1_md:{mask}"));
                let options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", &salt, "-sigopt", &mask];
                let sign = ["dgst", digest, "-sign", name, "-out", "signature"];
                hsm.openssl(sign.iter().chain(&options).chain(&["document"])).succeeds();
                let counts = hsm.recorder.counts();
                assert_eq!((counts.get("calls.C_SignInit"), counts.get("calls.C_Sign")), (2, 1), "{digest}");
                let verify = ["dgst", digest, "-verify", &key.public_file, "-signature", "signature"];
                let verify = Program::stock_openssl(verify.iter().chain(&options).chain(&["document"]));
                verify.current_dir(hsm.token.directory()).succeeds();
            }
        }
    }
}
