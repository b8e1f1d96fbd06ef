//! Our URI reader against another one, and against its own writer, on many generated URIs.

use hsmkey::public::{EcPublicKey, PublicKey, RsaPublicKey};
use hsmkey::uri::{Class, TokenAttributes, Uri};

/// xorshift64*, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn octets(&mut self, limit: usize) -> Vec<u8> {
        (0..self.below(limit)).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self) -> Option<String> {
        let alphabet =
            ['a', 'Z', '0', '-', ' ', ';', '&', '?', '%', '/', '#', '=', '|', 'ü', '\n', '\0', '語'];
        (self.below(3) > 0)
            .then(|| (0..self.below(12)).map(|_| alphabet[self.below(alphabet.len())]).collect())
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) > 0).then(|| make(self))
    }

    fn public(&mut self) -> PublicKey {
        if self.below(2) > 0 {
            let size = [128, 256, 1024][self.below(3)];
            let mut modulus: Vec<u8> = (0..size).map(|_| self.next() as u8).collect();
            modulus[0] |= 1;
            PublicKey::Rsa(RsaPublicKey::new(&modulus, &[1, 0, self.next() as u8 | 1]))
        } else {
            let params = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22].to_vec();
            let point = [vec![4], (0..96).map(|_| self.next() as u8).collect()].concat();
            PublicKey::Ec(EcPublicKey { params, point })
        }
    }

    fn uri(&mut self) -> Uri {
        let classes = [Class::Private, Class::Public, Class::Certificate, Class::SecretKey, Class::Data];
        Uri {
            pss: None,
            token: TokenAttributes {
                token: self.text(),
                manufacturer: self.text(),
                serial: self.text(),
                model: self.text(),
                slot_id: self.maybe(Self::next),
                slot_description: self.text(),
                slot_manufacturer: self.text(),
                library_manufacturer: self.text(),
                library_description: self.text(),
                library_version: self.maybe(|r| (r.next() as u8, r.maybe(|r| r.next() as u8))),
            },
            object: self.text(),
            id: self.maybe(|r| r.octets(40)),
            class: self.maybe(|r| classes[r.below(5)]),
            pin_value: None,
            pin_source: self.text(),
            module_name: self.text(),
            module_path: self.text(),
            public: self.maybe(Self::public),
        }
    }
}

/// Percent-decoding of our own, for what the oracle leaves encoded.
fn decoded(value: Option<&str>) -> Option<Vec<u8>> {
    value.map(|text| {
        let (mut octets, mut rest) = (Vec::new(), text.bytes());
        while let Some(octet) = rest.next() {
            let mut digit = || (rest.next().unwrap() as char).to_digit(16).unwrap() as u8;
            octets.push(if octet == b'%' { digit() << 4 | digit() } else { octet });
        }
        octets
    })
}

#[test]
fn what_is_written_is_read_back_and_the_oracle_reads_the_same() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..2000 {
        let uri = random.uri();
        let text = uri.to_string();
        assert_eq!(text.parse::<Uri>().unwrap(), uri, "{text}");
        assert!(text.bytes().all(|octet| octet.is_ascii_graphic()), "{text}");

        let oracle = pk11_uri_parser::parse(&text).unwrap_or_else(|error| panic!("{error}"));
        let bytes = |value: &Option<String>| value.as_ref().map(|text| text.clone().into_bytes());
        let token = &uri.token;
        assert_eq!(decoded(oracle.token()), bytes(&token.token));
        assert_eq!(decoded(oracle.manufacturer()), bytes(&token.manufacturer));
        assert_eq!(decoded(oracle.serial()), bytes(&token.serial));
        assert_eq!(decoded(oracle.model()), bytes(&token.model));
        assert_eq!(decoded(oracle.slot_description()), bytes(&token.slot_description));
        assert_eq!(decoded(oracle.slot_manufacturer()), bytes(&token.slot_manufacturer));
        assert_eq!(decoded(oracle.library_manufacturer()), bytes(&token.library_manufacturer));
        assert_eq!(decoded(oracle.library_description()), bytes(&token.library_description));
        assert_eq!(oracle.slot_id().map(str::to_owned), token.slot_id.map(|id| id.to_string()));
        let version = token.library_version.map(|(major, minor)| match minor {
            Some(minor) => format!("{major}.{minor}"),
            None => major.to_string(),
        });
        assert_eq!(oracle.library_version().map(str::to_owned), version);
        assert_eq!(decoded(oracle.object()), bytes(&uri.object));
        assert_eq!(decoded(oracle.id()), uri.id);
        assert_eq!(oracle.r#type(), uri.class.map(Class::name));
        assert_eq!(decoded(oracle.pin_source()), bytes(&uri.pin_source));
        assert_eq!(decoded(oracle.module_name()), bytes(&uri.module_name));
        assert_eq!(decoded(oracle.module_path()), bytes(&uri.module_path));
        assert_eq!(oracle.vendor("x-hsmkey-public").is_some(), uri.public.is_some());
    }
}

#[test]
fn no_input_panics_and_what_is_taken_is_written_back_the_same() {
    let mut random = Random(99);
    let mut taken = 0;
    for round in 0..60_000 {
        let mut text = match round % 3 {
            // Anything at all, with and without the scheme.
            0 => random.octets(60),
            1 => [&b"pkcs11:"[..], &random.octets(60)].concat(),
            // A good URI with a few octets changed, dropped or doubled.
            _ => Uri { public: None, ..random.uri() }.to_string().into_bytes(),
        };
        for _ in 0..random.below(4) {
            let at = random.below(text.len().max(1));
            if at < text.len() {
                match random.below(4) {
                    0 => text[at] = random.next() as u8,
                    1 => text[at] = b";=&?%"[random.below(5)],
                    2 => drop(text.remove(at)),
                    _ => text.insert(at, text[at]),
                }
            }
        }
        if let Ok(uri) = Uri::parse(&text) {
            taken += 1;
            let again: Uri = uri.to_string().parse().unwrap();
            assert_eq!(again, Uri { pin_value: None, ..uri });
        }
    }
    assert!(taken > 5_000, "{taken} URIs of 60,000 were good: the generator tests too little");
}

#[test]
fn the_key_of_a_uri_survives_at_8192_bits() {
    let modulus: Vec<u8> = (0..1024).map(|i| (i % 251) as u8 | 1).collect();
    let public = Some(PublicKey::Rsa(RsaPublicKey::new(&modulus, &[1, 0, 1])));
    let uri = Uri { object: Some("k".into()), public, ..Uri::default() };
    assert_eq!(uri.to_string().parse::<Uri>().unwrap(), uri);
    assert_eq!(uri.address().to_string(), "pkcs11:object=k");
}
