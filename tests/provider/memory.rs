//! Valgrind finds no fault and no lost octet that is hsmkey's.

use std::time::Duration;

use crate::support::{Hsm, c_program, ours};

#[test]
fn a_report_with_our_frames_is_noticed() {
    let report = "==1== Memcheck\n==1== \n==1== 8 bytes in 1 blocks are definitely lost\n==1==    by 0x1: f (in /x/libhsmkey.so)\n==1== \n==1== end\n";
    assert_eq!(ours(report).len(), 1);
    // Where valgrind knows the line it does not say the library.
    let report = "==1== Invalid read of size 1\n==1==    at 0x1: g (key.rs:1)\n==1==    by 0x2: hsmkey::key::f (key.rs:2)\n==1== \n==1== end\n";
    assert_eq!(ours(report).len(), 1);
}

#[test]
fn signing_leaves_nothing_behind() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "memory");
    hsm.token.write("document", "some octets");
    let valgrind =
        ["--quiet", "--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"];
    for program in [
        hsm.openssl(["dgst", "-sha256", "-sign", &key.file, "-out", "signature", "document"]),
        hsm.openssl(["dgst", "-sha1", "-sign", &key.uri, "-out", "signature", "document"]),
        hsm.openssl(["storeutl", "-noout", "pkcs11:"]),
        hsm.program(c_program("signer"), ["fresh", &key.file, "3"]),
        hsm.program(c_program("signer"), ["duplicated", &key.file, "3"]),
    ] {
        let outcome = program.under("valgrind", valgrind).limit(Duration::from_secs(180)).succeeds();
        assert_eq!(ours(&outcome.stderr), Vec::<String>::new(), "{outcome}");
    }
}

#[test]
fn decrypting_and_writing_leave_nothing_behind() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "memory");
    hsm.token.write("message", "some octets");
    let oaep = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_label:aa"];
    let encrypt = ["pkeyutl", "-encrypt", "-inkey", &key.file, "-in", "message", "-out", "ciphertext"];
    let decrypt = ["pkeyutl", "-decrypt", "-inkey", &key.file, "-in", "ciphertext", "-out", "back"];
    let valgrind =
        ["--quiet", "--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"];
    for program in [
        hsm.openssl(encrypt.iter().chain(&oaep)),
        hsm.openssl(decrypt.iter().chain(&oaep)),
        hsm.openssl(encrypt),
        hsm.openssl(decrypt),
        hsm.program(c_program("decrypter"), [&key.file, "implicit", "3", "ciphertext", "message"]),
        hsm.program(c_program("decrypter"), [&key.file, "tls:303", "3", "ciphertext"]),
        hsm.openssl(["pkey", "-in", &key.uri, "-text", "-out", "written"]),
    ] {
        let outcome = program.under("valgrind", valgrind).limit(Duration::from_secs(180)).succeeds();
        assert_eq!(ours(&outcome.stderr), Vec::<String>::new(), "{outcome}");
    }
}

#[test]
fn ec_keys_leave_nothing_behind() {
    let hsm = Hsm::cloudhsm();
    let key = hsm.import_ec("prime256v1", "memory");
    let peer = hsm.import_ec("prime256v1", "peer");
    hsm.token.write("document", "some octets");
    let valgrind =
        ["--quiet", "--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"];
    let derive = ["derive", &key.file, &peer.public_file, "sha256", "32"];
    for program in [
        hsm.openssl(["dgst", "-sha256", "-sign", &key.file, "-out", "signature", "document"]),
        hsm.openssl(["dgst", "-sha256", "-sign", &key.uri, "-out", "signature", "document"]),
        hsm.program(c_program("elliptic"), ["sizes", &key.file]),
        hsm.program(c_program("elliptic"), ["own", &key.file]),
        hsm.program(c_program("elliptic"), derive),
    ] {
        let outcome = program.under("valgrind", valgrind).limit(Duration::from_secs(180)).succeeds();
        assert_eq!(ours(&outcome.stderr), Vec::<String>::new(), "{outcome}");
    }
}

#[test]
fn processes_end_well_on_softhsm2_itself() {
    // Some providers crash SoftHSM2's libcrypto while the process ends. The recorder is not in the way here.
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "exit");
    hsm.token.write("document", "some octets");
    let pin = format!("file:{}", hsm.token.pin_file());
    hsm.configure(&[("pkcs11-module-token-pin", &pin), ("pkcs11-module-path", crate::support::softhsm())]);
    for _ in 0..20 {
        for name in [&key.file, &key.uri] {
            let sign = ["dgst", "-sha256", "-sign", name, "-out", "signature", "document"];
            assert_eq!(hsm.openssl(sign).succeeds().stderr, "");
        }
    }
}
