//! Text that may hold a join code.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// Bytes that may hold a join code: `Debug` never shows them, and they are wiped when dropped.
///
/// In a handover they are text, which a code always is.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(Zeroizing<Vec<u8>>);

impl Hidden {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text; `None` when they are not UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl From<OsString> for Hidden {
    fn from(text: OsString) -> Self {
        Self(Zeroizing::new(text.into_vec()))
    }
}

impl From<Zeroizing<Vec<u8>>> for Hidden {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.text().ok_or_else(|| serde::ser::Error::custom("it is not text"))?;
        serializer.serialize_str(text)
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Ok(Self::from(text.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_travels_and_is_never_shown() {
        let hidden = Hidden::from("7-nebula-orbit-cedar");
        assert!(!format!("{hidden:?} {:#?}", Some(&hidden)).contains("nebula"));
        let json = serde_json::to_string(&hidden).unwrap();
        assert_eq!(json, r#""7-nebula-orbit-cedar""#);
        assert_eq!(serde_json::from_str::<Hidden>(&json).unwrap(), hidden);
        let bytes = Hidden::from(OsString::from_vec(vec![0xff]));
        assert_eq!((bytes.as_bytes(), bytes.text()), (&[0xff][..], None));
        assert!(serde_json::to_string(&bytes).is_err());
    }
}
