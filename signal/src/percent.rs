//! Percent-encoding of bytes in links (RFC 3986 §2.1).

/// Appends `bytes`, with all but unreserved characters and those in `keep` as `%XX`.
pub(crate) fn encode(text: &mut String, bytes: &[u8], keep: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

/// Decodes `%XX`; `None` when a percent sign is not followed by two hexadecimal digits.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (&[high, low], tail) = tail.split_first_chunk()?;
        bytes.push(digit(high)? << 4 | digit(low)?);
        rest = tail;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn broken_escapes_are_refused() {
        assert_eq!(decode(b"a%2fb%2F"), Some(b"a/b/".to_vec()));
        for broken in [&b"%"[..], b"%2", b"%2g", b"%+1"] {
            assert_eq!(decode(broken), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive(bytes: Vec<u8>) {
            let mut text = String::new();
            encode(&mut text, &bytes, b"/");
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
            prop_assert_eq!(decode(text.as_bytes()), Some(bytes));
        }
    }
}
