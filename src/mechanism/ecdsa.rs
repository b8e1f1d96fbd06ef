//! ECDSA: an HSM takes a digest and gives r and s, one after the other; everybody else writes them as Ecdsa-Sig-Value (RFC 3279
//! section 2.2.3).

use crate::asn1::{SEQUENCE, element, unsigned};
use crate::curve::Curve;
use crate::error::{Result, bail};

/// The octets of a digest that count, SEC 1 section 4.1.3: no more than the order has. The HSM drops the bits that are still too many.
pub fn ecdsa_input<'a>(curve: &Curve, value: &'a [u8]) -> &'a [u8] {
    &value[..value.len().min(curve.size())]
}

/// The DER of r and s.
///
/// # Errors
/// `HsmCall` for what is not two numbers of one size.
pub fn ecdsa_signature(raw: &[u8]) -> Result<Vec<u8>> {
    if raw.is_empty() || raw.len() % 2 != 0 {
        bail!(HsmCall, "C_Sign made an ECDSA signature of {} octets", raw.len());
    }
    let (r, s) = raw.split_at(raw.len() / 2);
    Ok(element(SEQUENCE, &[&unsigned(r), &unsigned(s)]))
}

/// The most octets of that DER, which OpenSSL promises its applications: both numbers with a sign octet where the order can need one.
pub fn ecdsa_size(curve: &Curve) -> usize {
    let number = element(0, &[&vec![0; curve.bits / 8 + 1]]).len();
    element(0, &[&vec![0; 2 * number]]).len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::ecdsa::EcdsaSig;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;

    #[test]
    fn signatures_have_openssls_form_and_sizes() {
        for nid in [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1, Nid::SECP256K1] {
            let group = EcGroup::from_curve_name(nid).unwrap();
            let key = EcKey::generate(&group).unwrap();
            let curve = Curve::by_name(nid.short_name().unwrap()).unwrap();
            let pkey = PKey::from_ec_key(key.clone()).unwrap();
            assert_eq!(ecdsa_size(curve), pkey.size(), "{}", nid.short_name().unwrap());
            for _ in 0..20 {
                let signature = EcdsaSig::sign(&[7; 32], &key).unwrap();
                let size = curve.size().try_into().unwrap();
                let raw = [signature.r(), signature.s()].map(|number| number.to_vec_padded(size).unwrap());
                assert_eq!(ecdsa_signature(&raw.concat()).unwrap(), signature.to_der().unwrap());
            }
            assert_eq!(ecdsa_input(curve, &[7; 100]).len(), curve.size());
            assert_eq!(ecdsa_input(curve, &[7; 20]).len(), 20);
        }
        for length in [0, 63] {
            assert_eq!(ecdsa_signature(&vec![1; length]).unwrap_err().reason(), Reason::HsmCall);
        }
    }
}
