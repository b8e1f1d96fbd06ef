//! Reading the next PEM block (RFC 7468) line by line, as OpenSSL's core hands it over, and letting go of it as soon as it is
//! clear that it is none of ours.
//!
//! Ordinary private keys pass through here: what was kept of one is wiped.

use std::{fmt, mem};

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use super::Label;
use super::reference::{begins_reference, may_be_reference};
use crate::error::{Result, bail};

/// The most that is read before giving up, in octets.
const LIMIT: usize = 1 << 20;

/// The base64 characters of the first look: one line of most writers, 48 octets.
const FIRST_LOOK: usize = 64;

/// What one more line has led to.
#[derive(PartialEq, Eq)]
pub enum Progress {
    /// Another line is wanted.
    NeedMore,
    /// The next block is not a key file of ours. Stop reading; nothing is wrong.
    NotOurs,
    /// The block is complete. [`super::record`] and [`super::from_block`] tell whether it is ours.
    Block {
        /// Its label.
        label: Label,
        /// Its content, decoded.
        der: Zeroizing<Vec<u8>>,
    },
}

impl fmt::Debug for Progress {
    /// Without the content, which may be an ordinary private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Progress::NeedMore => f.write_str("NeedMore"),
            Progress::NotOurs => f.write_str("NotOurs"),
            Progress::Block { label, der } => write!(f, "Block({label:?}, {} octets)", der.len()),
        }
    }
}

/// Collects one PEM block.
#[derive(Default)]
pub struct PemReader {
    label: Option<Label>,
    /// The base64 text so far, without line ends.
    text: Zeroizing<Vec<u8>>,
    seen: usize,
    /// The last piece had no line end: the next is not the start of a line.
    in_line: bool,
    looked: bool,
}

impl PemReader {
    /// A reader that waits for the next `-----BEGIN`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a line, with or without its line end, or a piece of one that was too long for the caller's buffer.
    ///
    /// # Errors
    /// `BadKeyFile` for a pointer block that is damaged, whose label says that it is ours. After an error, `NotOurs` or `Block` the
    /// reader has done its work.
    pub fn push_line(&mut self, line: &[u8]) -> Result<Progress> {
        let at_start = !mem::replace(&mut self.in_line, line.last() != Some(&b'\n'));
        self.seen = self.seen.saturating_add(line.len());
        if self.seen > LIMIT {
            return self.unusable("is too long");
        }
        let line = line.trim_ascii_end();
        let Some(label) = self.label else {
            return Ok(if at_start { self.before_block(line) } else { Progress::NeedMore });
        };
        if at_start && line.starts_with(b"-----") {
            return if delimits(line, b"-----END ", label) {
                self.complete(label)
            } else {
                self.unusable("has no END line")
            };
        }
        // RFC 1421 headers: an encrypted key.
        if line.contains(&b':') {
            return self.unusable("has a header");
        }
        append(&mut self.text, line);
        if !self.looked && self.text.len() >= FIRST_LOOK && label != Label::Pointer {
            self.looked = true;
            let mut octets = Zeroizing::new([0; FIRST_LOOK / 4 * 3]);
            return Ok(match Base64::decode(&self.text[..FIRST_LOOK], &mut *octets) {
                Ok(first) if may_be_reference(label, first) => Progress::NeedMore,
                _ => Progress::NotOurs,
            });
        }
        Ok(Progress::NeedMore)
    }

    /// To be called when the input ends first.
    ///
    /// # Errors
    /// `BadKeyFile` for a key file of ours that was cut.
    pub fn finish(mut self) -> Result<Progress> {
        match self.label {
            None => Ok(Progress::NotOurs),
            Some(_) => self.unusable("has no END line"),
        }
    }

    fn before_block(&mut self, line: &[u8]) -> Progress {
        if !line.starts_with(b"-----BEGIN ") {
            return Progress::NeedMore;
        }
        self.label = Label::ALL.into_iter().find(|&label| delimits(line, b"-----BEGIN ", label));
        // A key's text is smaller than this, so it is seldom moved.
        append(&mut self.text, &[]);
        if self.label.is_some() { Progress::NeedMore } else { Progress::NotOurs }
    }

    fn complete(&mut self, label: Label) -> Result<Progress> {
        let mut der = Zeroizing::new(vec![0; self.text.len() / 4 * 3]);
        let Ok(length) = Base64::decode(self.text.as_slice(), &mut der).map(|octets| octets.len()) else {
            return self.unusable("is not base64");
        };
        der.truncate(length);
        Ok(Progress::Block { label, der })
    }

    /// A block that cannot be read: an error if it is one of ours, else OpenSSL's to complain about.
    fn unusable(&mut self, what: &str) -> Result<Progress> {
        match self.label {
            Some(Label::Pointer) => bail!(BadKeyFile, "the PEM block {} {what}", Label::Pointer.name()),
            Some(label) if self.begins_reference(label) => {
                bail!(BadKeyFile, "the reference to a key in the HSM {what}")
            }
            _ => Ok(Progress::NotOurs),
        }
    }

    /// Whether what is readable of the text is the beginning of a reference.
    fn begins_reference(&self, label: Label) -> bool {
        let alphabet = |octet: &u8| octet.is_ascii_alphanumeric() || b"+/".contains(octet);
        let readable = self.text.iter().take_while(|octet| alphabet(octet)).count() / 4 * 4;
        let mut octets = Zeroizing::new(vec![0; readable]);
        Base64::decode(&self.text[..readable], &mut octets).is_ok_and(|der| begins_reference(label, der))
    }
}

/// A text in two: up to the end of its first PEM block, and the rest. An explanation may stand below the block, and decoders of one block
/// want none there.
pub fn first_block(text: &[u8]) -> (&[u8], &[u8]) {
    const END: &[u8] = b"\n-----END ";
    let end = text.windows(END.len()).position(|octets| octets == END);
    let Some(line) = end.map(|end| end + 1) else { return (text, &[]) };
    let rest = text[line..].iter().position(|&octet| octet == b'\n');
    text.split_at(rest.map_or(text.len(), |rest| line + rest + 1))
}

/// `-----BEGIN label-----` or `-----END label-----`.
fn delimits(line: &[u8], start: &[u8], label: Label) -> bool {
    let rest = line.strip_prefix(start).and_then(|rest| rest.strip_prefix(label.name().as_bytes()));
    rest == Some(b"-----")
}

/// Appends without leaving an unwiped copy behind, as a growing `Vec` would.
fn append(text: &mut Zeroizing<Vec<u8>>, more: &[u8]) {
    let needed = text.len() + more.len();
    if needed > text.capacity() || text.capacity() == 0 {
        let mut larger = Zeroizing::new(Vec::with_capacity((2 * needed).max(4096)));
        larger.extend_from_slice(text);
        *text = larger;
    }
    text.extend_from_slice(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use crate::keyfile::{decode_record, encode_record, record, write_pointer, write_reference};
    use crate::public::{PublicKey, RsaPublicKey};
    use crate::uri::Uri;
    use openssl::{pkey::PKey, rsa::Rsa, symm::Cipher};

    /// Feeds lines until the reader has enough, and says how many it took.
    fn read(text: &str) -> (Result<Progress>, usize) {
        let mut reader = PemReader::new();
        for (count, line) in text.split_inclusive('\n').enumerate() {
            match reader.push_line(line.as_bytes()) {
                Ok(Progress::NeedMore) => (),
                done => return (done, count + 1),
            }
        }
        (reader.finish(), usize::MAX)
    }

    fn uri_of(progress: Result<Progress>) -> Uri {
        match progress.unwrap() {
            Progress::Block { label, der } => {
                decode_record(&record(label, der).unwrap().unwrap()).unwrap().unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    fn reason(text: &str) -> Reason {
        read(text).0.unwrap_err().reason()
    }

    fn reference() -> (String, Uri) {
        let key = Rsa::generate(2048).unwrap();
        let key = RsaPublicKey::new(&key.n().to_vec(), &key.e().to_vec());
        let uri: Uri = "pkcs11:token=t;object=k".parse().unwrap();
        (write_reference(&key, &uri).unwrap(), Uri { public: Some(PublicKey::Rsa(key)), ..uri })
    }

    #[test]
    fn both_forms_are_read_with_text_around_them_and_any_line_ends() {
        let (reference, uri) = reference();
        let pointer = write_pointer(&uri).unwrap();
        for file in [&reference, &pointer] {
            assert_eq!(uri_of(read(file).0), uri);
            assert_eq!(uri_of(read(&format!("Bag Attributes\n  -----BEGIN X-----\n\n{file}junk\n")).0), uri);
            assert_eq!(uri_of(read(&file.replace('\n', " \r\n")).0), uri);
            assert_eq!(uri_of(read(file.trim_end()).0), uri);
            let (block, rest) = first_block(file.as_bytes());
            assert_eq!(uri_of(read(std::str::from_utf8(block).unwrap().trim_end()).0), uri);
            assert!(rest.starts_with(b"# "));
            assert_eq!(first_block(block), (block, &b""[..]));
            let unended = &block[..block.len() - 1];
            assert_eq!(first_block(unended), (unended, &b""[..]));
        }
        // One line of any length, and a line that arrives in pieces.
        let block = std::str::from_utf8(first_block(pointer.as_bytes()).0).unwrap();
        let lines: Vec<&str> = block.lines().collect();
        let body = lines[1..lines.len() - 1].concat();
        assert_eq!(uri_of(read(&format!("{}\n{body}\n{}\n", lines[0], lines[lines.len() - 1])).0), uri);
        let mut reader = PemReader::new();
        reader.push_line(lines[0].as_bytes()).unwrap();
        reader.push_line(b"\n").unwrap();
        body.as_bytes()
            .chunks(50)
            .for_each(|piece| assert_eq!(reader.push_line(piece), Ok(Progress::NeedMore)));
        reader.push_line(b"\n").unwrap();
        assert_eq!(uri_of(reader.push_line(lines[lines.len() - 1].as_bytes())), uri);
    }

    #[test]
    fn a_piece_of_a_long_line_is_not_a_delimiter() {
        let mut reader = PemReader::new();
        assert_eq!(reader.push_line(b"a comment that is longer than the buffer "), Ok(Progress::NeedMore));
        assert_eq!(reader.push_line(b"-----BEGIN CERTIFICATE-----\n"), Ok(Progress::NeedMore));
        assert_eq!(reader.push_line(b"-----BEGIN CERTIFICATE-----\n"), Ok(Progress::NotOurs));
    }

    #[test]
    fn ordinary_blocks_are_let_go_at_their_first_line() {
        let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
        let pkcs1 = text(rsa.rsa().unwrap().private_key_to_pem().unwrap());
        let pkcs8 = text(rsa.private_key_to_pem_pkcs8().unwrap());
        let encrypted =
            text(rsa.rsa().unwrap().private_key_to_pem_passphrase(Cipher::aes_128_cbc(), b"pass").unwrap());
        for (pem, lines) in [(&pkcs1, 2), (&pkcs8, 2), (&encrypted, 2)] {
            assert_eq!(read(pem), (Ok(Progress::NotOurs), lines), "{}", &pem[..40]);
        }
        for label in [
            "CERTIFICATE",
            "ENCRYPTED PRIVATE KEY",
            "EC PRIVATE KEY",
            "PUBLIC KEY",
            "PKCS#11 PROVIDER URI V2",
        ] {
            assert_eq!(read(&format!("-----BEGIN {label}-----\n")), (Ok(Progress::NotOurs), 1));
        }
        // Ed25519 is one short line: whole, and then not ours.
        let ed25519 = text(PKey::generate_ed25519().unwrap().private_key_to_pem_pkcs8().unwrap());
        let (progress, _) = read(&ed25519);
        match progress.unwrap() {
            Progress::NotOurs => (),
            Progress::Block { label, der } => assert_eq!(record(label, der).unwrap(), None),
            Progress::NeedMore => panic!("the key has an end"),
        }
        assert_eq!(read("no PEM at all\n").0, Ok(Progress::NotOurs));
        assert_eq!(read("").0, Ok(Progress::NotOurs));
    }

    #[test]
    fn a_damaged_pointer_is_an_error_wherever_it_is_cut() {
        let pointer =
            write_pointer(&"pkcs11:token=some%20token;object=some%20object;type=private".parse().unwrap())
                .unwrap();
        let start = pointer.find("-----BEGIN").unwrap() + "-----BEGIN PKCS#11 PROVIDER URI-----\n".len();
        let end = pointer.find("\n-----END").unwrap() + "\n-----END PKCS#11 PROVIDER URI----".len();
        for cut in start..=end {
            assert_eq!(reason(&pointer[..cut]), Reason::BadKeyFile, "{cut}");
        }
        assert_eq!(
            reason(&pointer.replace("END PKCS#11 PROVIDER URI", "END CERTIFICATE")),
            Reason::BadKeyFile
        );
        assert_eq!(reason(&pointer.replacen("MF", "M*", 1)), Reason::BadKeyFile);
        assert_eq!(reason("-----BEGIN PKCS#11 PROVIDER URI-----\nComment: x\n"), Reason::BadKeyFile);
        let endless = "-----BEGIN PKCS#11 PROVIDER URI-----\n".to_owned() + &"A".repeat(LIMIT);
        let (outcome, lines) = read(&endless);
        assert_eq!((outcome.unwrap_err().reason(), lines), (Reason::BadKeyFile, 2));
    }

    #[test]
    fn a_cut_reference_is_an_error_once_its_lengths_can_be_seen() {
        let (reference, _) = reference();
        let block = reference.find("-----BEGIN").unwrap() + "-----BEGIN RSA PRIVATE KEY-----\n".len();
        let end = reference.find("-----END").unwrap();
        let outcome = |text: &str| read(text).0.map_err(|error| error.reason());
        assert_eq!(outcome(&reference[..block + 4]), Ok(Progress::NotOurs));
        // n alone takes 350 characters of base64, and the marker comes after it.
        for cut in (block + 16..end).chain([end, end + 20]) {
            assert_eq!(outcome(&reference[..cut]), Err(Reason::BadKeyFile), "{cut}");
        }
        // An ordinary key that was cut is OpenSSL's to complain about.
        let ordinary = Rsa::generate(2048).unwrap().private_key_to_pem().unwrap();
        let ordinary = String::from_utf8(ordinary).unwrap();
        for cut in 40..ordinary.len() - 20 {
            assert_eq!(outcome(&ordinary[..cut]), Ok(Progress::NotOurs), "{cut}");
        }
        let spoiled = format!("{}**{}", &reference[..end - 10], &reference[end - 8..]);
        assert_eq!(outcome(&spoiled), Err(Reason::BadKeyFile));
    }

    #[test]
    fn a_pin_in_somebody_elses_pointer_reaches_the_next_decoder() {
        let mut der = encode_record(&"pkcs11:object=k?pin-source=1234567".parse().unwrap());
        let at = der.windows(10).position(|octets| octets == b"pin-source").unwrap();
        der.splice(at..at + 10, *b"pin-value=");
        let text =
            pem_rfc7468::encode_string("PKCS#11 PROVIDER URI", pem_rfc7468::LineEnding::LF, &der).unwrap();
        assert_eq!(uri_of(read(&text).0).pin_value.unwrap().as_bytes(), b"=1234567");
    }
}
