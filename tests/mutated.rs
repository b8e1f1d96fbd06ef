//! Key files, references, URIs, public keys and certificates with octets changed, cut out, doubled and put in: whatever comes of it is read
//! or refused. No panic, no memory beyond what the input explains, and what was read can be written and read again.

// What is measured is the allocator.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use hsmkey::certificate::Names;
use hsmkey::keyfile::{self, Label, PemReader, Progress};
use hsmkey::public::{EcPublicKey, Ed25519PublicKey, PublicKey};
use hsmkey::spki::{key_to_spki, spki_to_key};
use hsmkey::uri::Uri;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::X509;

/// How many changed inputs are made of each good one.
const ROUNDS: usize = 4_000;

/// The octets that this thread has now, and the most that it had.
struct Measured;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Measured = Measured;

// SAFETY: every request goes to the system's allocator as it came; the counters are cells of plain numbers, which allocate nothing.
unsafe impl GlobalAlloc for Measured {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NOW.set(NOW.get() + layout.size() as isize);
        MOST.set(MOST.get().max(NOW.get()));
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.set(NOW.get() - layout.size() as isize);
        // SAFETY: the caller's memory, which the system's allocator gave.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What was read when a test fails: keys are new each time.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input: {}", self.0.escape_ascii());
        }
    }
}

/// xorshift64*: the same changes each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// One to four changes. Half of the new octets mean something to a reader of DER, PEM or URIs.
    fn change(&mut self, good: &[u8]) -> Vec<u8> {
        const TELLING: &[u8] =
            b"\x00\x01\x02\x03\x04\x05\x06\x0c\x1a\x30\x7f\x80\x81\x82\x84\x88\xa0\xff%&;?=:-\n\r +/";
        let mut octets = good.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(octets.len());
            let end = at + self.below((octets.len() - at).min(40) + 1);
            let random = self.next() as u8;
            let octet = if self.below(2) > 0 { TELLING[self.below(TELLING.len())] } else { random };
            match self.below(6) {
                0 if at < octets.len() => octets[at] = octet,
                1 if at < octets.len() => octets[at] ^= 1 << self.below(8),
                2 => octets.insert(at, octet),
                3 => drop(octets.drain(at..end)),
                4 => octets.extend_from_within(at..end),
                _ => octets.truncate(octets.len() - self.below(octets.len().min(20))),
            }
        }
        octets
    }
}

/// Reads the good input and many changed ones. `true` is for what was read.
fn try_all(what: &str, good: &[u8], read: impl Fn(&[u8]) -> bool) {
    assert!(read(good), "{what} as it is");
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ good.len() as u64);
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let changed = random.change(good);
        let _shown = Shown(&changed);
        let before = NOW.get();
        MOST.set(before);
        accepted += usize::from(read(&changed));
        // A URI of a few octets has a struct of some hundred, and an error has its text.
        let most = MOST.get() - before;
        assert!(most < 16 * changed.len() as isize + 8192, "{what}, round {round}: {most} octets");
        assert_eq!(NOW.get(), before, "{what}, round {round}: something is left");
    }
    assert!(accepted < ROUNDS, "{what}: nothing was refused");
}

/// A URI that was read is written, and read again as the same.
fn written(uri: &Uri) -> bool {
    let again = Uri::parse(uri.to_string().as_bytes());
    assert_eq!(again, Ok(Uri { pin_value: None, ..uri.clone() }));
    true
}

/// The whole of what decoders do with a text: lines, the block, its record, and the record read.
fn read_pem(text: &[u8]) -> bool {
    let mut reader = PemReader::new();
    for line in text.split_inclusive(|&octet| octet == b'\n') {
        match reader.push_line(line) {
            Ok(Progress::NeedMore) => {}
            Ok(Progress::NotOurs) | Err(_) => return false,
            Ok(Progress::Block { label, der }) => {
                let Ok(Some(record)) = keyfile::record(label, der) else { return false };
                return written(&keyfile::decode_record(&record).expect("we wrote it").expect("it is ours"));
            }
        }
    }
    !matches!(reader.finish(), Ok(Progress::NotOurs) | Err(_))
}

fn keys() -> Vec<PublicKey> {
    let rsa = Rsa::generate(1024).unwrap();
    let group = EcGroup::from_curve_name(Nid::SECP384R1).unwrap();
    let ec = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    [PKey::from_rsa(rsa).unwrap(), ec, PKey::generate_ed25519().unwrap()]
        .map(|key| spki_to_key(&key.public_key_to_der().unwrap()).unwrap().0)
        .into()
}

fn uri(public: Option<PublicKey>) -> Uri {
    let text = "pkcs11:token=a%20token;slot-id=3;object=a%20key;id=%01%a2;type=private?pin-source=file:/pin";
    Uri { public, ..text.parse().unwrap() }
}

#[test]
fn key_files() {
    for key in keys() {
        let pointer = keyfile::write_pointer(&uri(Some(key.clone()))).unwrap();
        try_all("a pointer file", pointer.as_bytes(), read_pem);
        let record = keyfile::encode_record(&uri(Some(key)));
        try_all(
            "a record",
            &record,
            |der| matches!(keyfile::decode_record(der), Ok(Some(uri)) if written(&uri)),
        );
    }
}

#[test]
fn references() {
    let PublicKey::Rsa(key) = &keys()[0] else { unreachable!() };
    let uri = "pkcs11:token=t;object=k;type=private".parse().unwrap();
    let text = keyfile::write_reference(key, &uri).unwrap();
    try_all("a reference file", text.as_bytes(), read_pem);
    let der = pem_rfc7468::decode_vec(keyfile::first_block(text.as_bytes()).0).unwrap().1;
    let read =
        |label| move |der: &[u8]| matches!(keyfile::from_block(label, der), Ok(Some(uri)) if written(&uri));
    try_all("a reference", &der, read(Label::RsaPrivateKey));
    let wrapped = PKey::from_rsa(Rsa::private_key_from_der(&der).unwrap()).unwrap();
    let wrapped = wrapped.private_key_to_pkcs8().unwrap();
    try_all("a reference in PKCS#8", &wrapped, read(Label::PrivateKey));
}

#[test]
fn references_of_others() {
    // The true public half, and other numbers where the private one would be.
    let (key, other) = (Rsa::generate(512).unwrap(), Rsa::generate(512).unwrap());
    let copy = |number: &openssl::bn::BigNumRef| number.to_owned().unwrap();
    let foreign =
        openssl::rsa::RsaPrivateKeyBuilder::new(copy(key.n()), copy(key.e()), copy(other.d())).unwrap();
    let foreign = foreign.set_factors(copy(other.p().unwrap()), copy(other.q().unwrap())).unwrap();
    let crt = [other.dmp1(), other.dmq1(), other.iqmp()].map(|number| copy(number.unwrap()));
    let [dmp1, dmq1, iqmp] = crt;
    let der = foreign.set_crt_params(dmp1, dmq1, iqmp).unwrap().build().private_key_to_der().unwrap();
    let pem = |der: &[u8]| pem_rfc7468::encode_string("RSA PRIVATE KEY", Default::default(), der).unwrap();
    let read = |pem: &[u8]| keyfile::from_foreign_reference(pem).is_ok();
    try_all("somebody else's reference", pem(&der).as_bytes(), read);
    try_all("somebody else's numbers", &der, |der| read(pem(der).as_bytes()));
}

#[test]
fn uris() {
    for text in [
        "pkcs11:token=a%20token;manufacturer=m;serial=0;model=x;library-version=2.40;slot-id=7;object=k%C3%BC;id=%01%FF;type=private",
        "pkcs11:object=50%25?pin-source=file:/a%20b&module-name=softhsm2&module-path=/usr/lib/softhsm/libsofthsm2.so",
        "pkcs11:object=k?pin-value=00s3cr3t00&module-name=m",
    ] {
        try_all("a URI", text.as_bytes(), |text| match Uri::parse(text) {
            Ok(uri) => written(&uri),
            Err(error) => {
                assert!(!error.to_string().contains("s3cr3t"), "{error}");
                false
            }
        });
    }
}

#[test]
fn public_keys_and_certificates() {
    for key in keys() {
        try_all("a public key", &key_to_spki(&key, None), |der| {
            let Ok((key, pss)) = spki_to_key(der) else { return false };
            let again = spki_to_key(&key_to_spki(&key, pss.as_ref()));
            assert_eq!(again, Ok((key.clone(), pss)));
            if let PublicKey::Ec(ec) = &key {
                let _ = ec.curve();
            }
            true
        });
    }
    // CKA_EC_POINT as a token may have it.
    for (form, size) in [([4, 65].as_slice(), 65), (&[4, 0x81, 133], 133), (&[3, 33, 0], 32), (&[], 32)] {
        let value = [form, &vec![4; size]].concat();
        let mut random = Random(7 + size as u64);
        for _ in 0..ROUNDS {
            let changed = random.change(&value);
            let _ = (EcPublicKey::from_token(&changed, &changed), Ed25519PublicKey::from_token(&changed));
        }
    }
    let key = PKey::generate_ed25519().unwrap();
    let mut certificate = X509::builder().unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate.sign(&key, openssl::hash::MessageDigest::null()).unwrap();
    let der = certificate.build().to_der().unwrap();
    try_all("a certificate", &der, |der| Names::of(der).is_ok());
}
