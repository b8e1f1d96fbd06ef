//! Writing DER (X.690) for the few structures we emit. Reading is done with the `der` crate.

/// Tag of INTEGER.
pub const INTEGER: u8 = 0x02;
/// Tag of BIT STRING.
pub const BIT_STRING: u8 = 0x03;
/// Tag of OCTET STRING.
pub const OCTET_STRING: u8 = 0x04;
/// Tag of OBJECT IDENTIFIER.
pub const OBJECT_IDENTIFIER: u8 = 0x06;
/// Tag of UTF8String.
pub const UTF8_STRING: u8 = 0x0c;
/// Tag of VisibleString.
pub const VISIBLE_STRING: u8 = 0x1a;
/// Tag of SEQUENCE.
pub const SEQUENCE: u8 = 0x30;
/// The whole of NULL.
pub const NULL: &[u8] = &[0x05, 0x00];

/// One element: the tag, the length of all parts together, the parts.
pub fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut der = Vec::with_capacity(length + 6);
    der.push(tag);
    if length < 0x80 {
        der.push(length as u8);
    } else {
        let octets = length.to_be_bytes();
        let zeros = octets.iter().take_while(|&&octet| octet == 0).count();
        der.push(0x80 | (octets.len() - zeros) as u8);
        der.extend_from_slice(&octets[zeros..]);
    }
    parts.iter().for_each(|part| der.extend_from_slice(part));
    der
}

/// INTEGER of an unsigned big-endian number; leading zeros are dropped and the sign octet is added where it is due.
pub fn unsigned(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|&&octet| octet == 0).count();
    let number = &number[zeros..];
    match number.first() {
        Some(first) if *first < 0x80 => element(INTEGER, &[number]),
        // Zero itself needs one octet; a number with the top bit set needs the sign octet.
        _ => element(INTEGER, &[&[0], number]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        assert_eq!(element(OCTET_STRING, &[]), [4, 0]);
        assert_eq!(element(OCTET_STRING, &[&[7; 127]])[..2], [4, 127]);
        assert_eq!(element(OCTET_STRING, &[&[7; 100], &[7; 28]])[..3], [4, 0x81, 128]);
        assert_eq!(element(OCTET_STRING, &[&[7; 0x1234]])[..4], [4, 0x82, 0x12, 0x34]);
    }

    #[test]
    fn integers_are_positive_and_minimal() {
        assert_eq!(unsigned(&[]), [2, 1, 0]);
        assert_eq!(unsigned(&[0, 0]), [2, 1, 0]);
        assert_eq!(unsigned(&[0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(unsigned(&[0x80]), [2, 2, 0, 0x80]);
    }
}
