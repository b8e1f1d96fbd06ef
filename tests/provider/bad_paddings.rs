//! Who sends bad ciphertexts learns nothing and waits for nobody.

use std::fs;
use std::time::{Duration, Instant};

use hsmkey::error::Reason;
use openssl::bn::{BigNum, BigNumContext};
use openssl::hash::{MessageDigest, hash};
use openssl::pkey::PKey;
use openssl::sign::Signer;

use super::decryption::{MESSAGE, block, decrypter, encrypted, hex, pkeyutl, stock};
use crate::support::{Hsm, Key, OpenSsl};

/// Ciphertexts whose padding is bad, each in its way.
fn bad_paddings(hsm: &Hsm, key: &Key) -> Vec<String> {
    [
        block([0, 1], 243, &[9; 10]),
        block([1, 2], 243, &[9; 10]),
        block([0, 2], 254, &[]),
        block([0, 2], 7, &[9; 246]),
        block([0, 2], 0, &[9; 253]),
        block([0, 0], 243, &[9; 10]),
    ]
    .iter()
    .enumerate()
    .map(|(index, block)| encrypted(hsm, key, &format!("bad{index}"), block))
    .collect()
}

/// What implicit rejection makes of a ciphertext (draft-irtf-cfrg-rsa-guidance), from the hash of the key's secret.
fn synthetic(secret: &[u8], ciphertext: &[u8]) -> Vec<u8> {
    let hmac = |key: &[u8], data: &[u8]| -> Vec<u8> {
        let key = PKey::hmac(key).unwrap();
        Signer::new(MessageDigest::sha256(), &key).unwrap().sign_oneshot_to_vec(data).unwrap()
    };
    let key = hmac(secret, ciphertext);
    let expand = |label: &str, length: u16| -> Vec<u8> {
        let blocks = (0..length.div_ceil(32)).flat_map(|counter| {
            hmac(&key, &[&counter.to_be_bytes(), label.as_bytes(), &(8 * length).to_be_bytes()].concat())
        });
        blocks.take(length.into()).collect()
    };
    let longest = ciphertext.len() - 10;
    let mask = longest.next_power_of_two() - 1;
    let lengths = expand("length", 256);
    let mut drawn = lengths.chunks(2).map(|pair| usize::from(u16::from_be_bytes([pair[0], pair[1]])) & mask);
    let length = drawn.rfind(|length| *length < longest).unwrap();
    let message = expand("message", ciphertext.len() as u16);
    message[message.len() - length..].to_vec()
}

/// The hash of what the private key makes of the block that stands for it.
fn secret_of_ours(key: &Key) -> Vec<u8> {
    let rsa = key.software.rsa().unwrap();
    let seed = [&b"hsmkey implicit rejection"[..], &rsa.n().to_vec()].concat();
    let mut block: Vec<u8> = (0_u32..8)
        .flat_map(|counter| {
            hash(MessageDigest::sha256(), &[&seed[..], &counter.to_be_bytes()].concat()).unwrap().to_vec()
        })
        .collect();
    (block[0], block[1], block[255]) = (0, 0xff, 0);
    let mut power = BigNum::new().unwrap();
    let mut context = BigNumContext::new().unwrap();
    power.mod_exp(&BigNum::from_slice(&block).unwrap(), rsa.d(), rsa.n(), &mut context).unwrap();
    hash(MessageDigest::sha256(), &power.to_vec_padded(256).unwrap()).unwrap().to_vec()
}

#[test]
fn a_bad_padding_is_rejected_as_this_openssl_rejects_it() {
    let refused = format!("! {}", Reason::Decryption as u32);
    for hsm in [Hsm::new(), Hsm::cloudhsm(), Hsm::cloudhsm_with("fips = on")] {
        let key = hsm.import_rsa(2048, "attacked");
        let good = encrypted(&hsm, &key, "good", &block([0, 2], 230, &[9; 23]));
        let bad = bad_paddings(&hsm, &key);
        let ours: Vec<String> = bad
            .iter()
            .map(|file| format!("={}", hex(&synthetic(&secret_of_ours(&key), &fs::read(file).unwrap()))))
            .collect();
        for openssl in [OpenSsl::system(), OpenSsl::version("3.5"), OpenSsl::version("4.0")] {
            let run = |mode, files: &[String]| decrypter(&hsm, &openssl, &key.file, mode, "2", files);
            let twice =
                |lines: &[String]| lines.iter().flat_map(|line| [line.clone(), line.clone()]).collect();
            let lines: Vec<String> = twice(&ours);
            for mode in ["explicit", "implicit", "pkcs1"] {
                let implicit = mode == "implicit" || mode == "pkcs1" && !openssl.version.starts_with("3.0");
                assert_eq!(run(mode, std::slice::from_ref(&good)), vec![format!("={}", "09".repeat(23)); 2]);
                let expected = if implicit { lines.clone() } else { vec![refused.clone(); lines.len()] };
                assert_eq!(run(mode, &bad), expected, "{mode} {}", openssl.version);
            }
        }
        // That the draft is understood here as OpenSSL understands it: the same from the private exponent, as its own keys have it.
        let d = key.software.rsa().unwrap().d().to_vec_padded(256).unwrap();
        let theirs = hash(MessageDigest::sha256(), &d).unwrap();
        let software = decrypter(&hsm, &OpenSsl::version("3.5"), &key.software_file, "pkcs1", "1", &bad);
        let theirs =
            bad.iter().map(|file| format!("={}", hex(&synthetic(&theirs, &fs::read(file).unwrap()))));
        assert_eq!(software, theirs.collect::<Vec<_>>());
    }
}

#[test]
fn a_bad_ciphertext_costs_no_time_and_has_one_error() {
    let refused = format!("! {}", Reason::Decryption as u32);
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "attacked");
        let other = hsm.import_rsa(2048, "other");
        hsm.token.write("message", MESSAGE);
        let mut bad = bad_paddings(&hsm, &key);
        let oaep = ["rsa_padding_mode:oaep"];
        for (public, options) in
            [(&other, &oaep[..]), (&key, &["rsa_padding_mode:oaep", "rsa_oaep_label:aa"])]
        {
            let out = format!("bad{}", bad.len());
            let encrypt =
                ["-encrypt", "-pubin", "-inkey", &public.public_file, "-in", "message", "-out", &out];
            stock(&hsm, &pkeyutl(&encrypt, options)).succeeds();
            bad.push(hsm.token.path(&out));
        }
        let modulus = key.software.rsa().unwrap().n().to_vec();
        let too_large = [hsm.token.write("n", &modulus), hsm.token.write("ff", [0xff; 256])];
        // The other key's ciphertext may be larger than the modulus.
        let small = fs::read(&bad[6]).unwrap() < modulus;
        hsm.recorder.reset();
        let begun = Instant::now();
        // A token that passes over labels takes the last one, without a label; this one does.
        let lines = decrypter(&hsm, &OpenSsl::system(), &key.file, "oaep", "1", &bad[..7]);
        assert_eq!(lines, vec![refused.clone(); 7]);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let attempts = 3 * (6 + u64::from(small));
        assert_eq!(hsm.recorder.counts().get("calls.C_Decrypt"), attempts);
        assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 1, "nothing is rebuilt");
        assert_eq!(hsm.recorder.counts().get("calls.C_FindObjectsInit"), 1, "nothing is rebuilt");
        for label in ["rsa_oaep_label:ab", "rsa_oaep_label:aaaa"] {
            let decrypt = ["-decrypt", "-inkey", &key.file, "-in", "bad7"];
            let outcome = hsm.openssl(pkeyutl(&decrypt, &["rsa_padding_mode:oaep", label])).fails();
            assert!(outcome.stderr.contains(Reason::Decryption.text()), "{outcome}");
        }
        hsm.recorder.reset();
        for mode in ["oaep", "explicit", "implicit", "tls:303"] {
            assert_eq!(
                decrypter(&hsm, &OpenSsl::system(), &key.file, mode, "1", &too_large),
                [refused.clone(), refused.clone()]
            );
        }
        assert_eq!(hsm.recorder.counts().calls(), 0, "what is no ciphertext of the key is not sent");
        let long = [hsm.token.write("long", [1; 257])];
        let lines = decrypter(&hsm, &OpenSsl::system(), &key.file, "oaep", "1", &long);
        assert_eq!(lines, [format!("! {}", Reason::DataLength as u32)]);
    }
}

#[test]
fn a_premaster_secret_is_random_where_anything_is_wrong_with_it() {
    for hsm in [Hsm::new(), Hsm::cloudhsm(), Hsm::cloudhsm_with("fips = on")] {
        let key = hsm.import_rsa(2048, "serving");
        let secret = [&[3, 3][..], &[5; 46]].concat();
        let good = encrypted(&hsm, &key, "good", &block([0, 2], 205, &secret));
        let old = encrypted(&hsm, &key, "old", &block([0, 2], 205, &[&[3, 1][..], &[5; 46]].concat()));
        let mut bad = bad_paddings(&hsm, &key);
        bad.push(encrypted(&hsm, &key, "short", &block([0, 2], 206, &secret[..47])));
        bad.push(old.clone());
        for openssl in [OpenSsl::system(), OpenSsl::version("3.5")] {
            let run = |mode, files: &[String]| decrypter(&hsm, &openssl, &key.file, mode, "2", files);
            let expected = format!("={}", hex(&secret));
            assert_eq!(run("tls:303", std::slice::from_ref(&good)), [expected.clone(), expected]);
            let expected = format!("=0301{}", "05".repeat(46));
            assert_eq!(run("tls:303:301", std::slice::from_ref(&old)), [expected.clone(), expected]);
            let lines = run("tls:303", &bad);
            let distinct: std::collections::HashSet<_> = lines.iter().collect();
            assert_eq!((lines.len(), distinct.len()), (16, 16), "random ones never come twice");
            assert!(lines.iter().all(|line| line.len() == 1 + 96), "{lines:?}");
            assert_eq!(
                run("tls", std::slice::from_ref(&good)),
                vec![format!("! {}", Reason::InvalidArgument as u32); 2]
            );
        }
    }
}
