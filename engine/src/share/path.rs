//! Names inside a share: components joined by `/`, nothing that could point elsewhere.

use std::fmt;

/// Longest component: `NAME_MAX` of every Linux file system in use.
pub const COMPONENT_BYTES_MAX: usize = 255;

/// Longest path: four times `PATH_MAX`, deeper than build trees and node_modules get, yet a small
/// message.
pub const PATH_BYTES_MAX: usize = 16 * 1024;

/// A path below the share's root; the empty path is the root itself.
///
/// Bytes, not text: Linux names hold any byte but `/` and NUL. Holds at most [`PATH_BYTES_MAX`]
/// bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

/// Why bytes are not a path below the share's root; always the peer's or the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A NUL byte, which would end the name early in the kernel.
    #[error("the path holds a NUL byte")]
    Nul,
    /// A leading, trailing or doubled `/`, or an empty name.
    #[error("the path has an empty component")]
    EmptyComponent,
    /// A component `.` or `..`.
    #[error("the path has a '.' or '..' component")]
    DotComponent,
    /// A component longer than [`COMPONENT_BYTES_MAX`].
    #[error("a component is longer than {COMPONENT_BYTES_MAX} bytes")]
    ComponentTooLong,
    /// The whole longer than [`PATH_BYTES_MAX`].
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// A single name that holds a `/`.
    #[error("the name holds a '/'")]
    Separator,
}

impl RelPath {
    /// The share's root.
    pub const ROOT: Self = Self(Vec::new());

    /// Checks bytes from outside.
    ///
    /// # Errors
    /// One [`PathError`] for the first fault found, the whole length first.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        if !bytes.is_empty() {
            bytes.split(|&byte| byte == b'/').try_for_each(check_component)?;
        }
        Ok(Self(bytes.to_vec()))
    }

    /// This path and one more component.
    ///
    /// # Errors
    /// [`PathError::Separator`] if `name` is more than one component, else as [`RelPath::parse`].
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        if name.contains(&b'/') {
            return Err(PathError::Separator);
        }
        check_component(name)?;
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !self.is_root() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        Ok(Self(bytes))
    }

    /// The last component; `None` for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.0.rsplit(|&byte| byte == b'/').next().filter(|name| !name.is_empty())
    }

    /// The path without its last component; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// The components in order; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
    }

    /// Whether this is the share's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, joined by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn check_component(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" => Err(PathError::EmptyComponent),
        b"." | b".." => Err(PathError::DotComponent),
        _ if name.len() > COMPONENT_BYTES_MAX => Err(PathError::ComponentTooLong),
        _ if name.contains(&0) => Err(PathError::Nul),
        _ => Ok(()),
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelPath(\"{self}\")")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(input: &[u8], expected: Result<(), PathError>) {
        assert_eq!(RelPath::parse(input).map(|_| ()), expected, "{}", input.escape_ascii());
    }

    #[test]
    fn parse_takes_plain_paths() {
        for good in [&b""[..], b"a", b"a/b", b"...", b"..a", b".a/b.", b"\xff\xfe/\n", &[b'x'; COMPONENT_BYTES_MAX]] {
            check(good, Ok(()));
        }
    }

    #[test]
    fn parse_refuses_what_could_point_elsewhere() {
        for empty in [&b"/"[..], b"/a", b"a/", b"a//b", b"//"] {
            check(empty, Err(PathError::EmptyComponent));
        }
        for dots in [&b"."[..], b"..", b"a/..", b"../a", b"a/./b", b"a/../../b"] {
            check(dots, Err(PathError::DotComponent));
        }
        check(b"a\0b", Err(PathError::Nul));
        check(b"\0", Err(PathError::Nul));
        check(&[b'x'; COMPONENT_BYTES_MAX + 1], Err(PathError::ComponentTooLong));
    }

    #[test]
    fn the_whole_length_is_bounded_on_both_sides_of_the_limit() {
        let mut longest = b"x/".repeat(PATH_BYTES_MAX / 2);
        longest.pop();
        check(&longest, Ok(()));
        let almost = RelPath::parse(&longest).expect("one byte below the limit");
        assert_eq!(almost.join(b"y"), Err(PathError::TooLong));
        longest.extend_from_slice(b"/y");
        check(&longest, Err(PathError::TooLong));
    }

    #[test]
    fn join_takes_one_component_only() {
        let base = RelPath::parse(b"a").expect("plain");
        assert_eq!(base.join(b"b").expect("plain").as_bytes(), b"a/b");
        assert_eq!(RelPath::ROOT.join(b"b").expect("plain").as_bytes(), b"b");
        assert_eq!(base.join(b"b/c"), Err(PathError::Separator));
        assert_eq!(base.join(b".."), Err(PathError::DotComponent));
        assert_eq!(base.join(b""), Err(PathError::EmptyComponent));
    }

    #[test]
    fn the_root_has_no_name_and_no_parent() {
        assert_eq!(RelPath::ROOT.file_name(), None);
        assert_eq!(RelPath::ROOT.parent(), None);
        assert_eq!(RelPath::ROOT.components().count(), 0);
        assert_eq!(RelPath::parse(b"a").expect("plain").parent(), Some(RelPath::ROOT));
    }

    fn hostile_bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(b'/'), Just(b'.'), Just(0u8), Just(b'a'), any::<u8>()];
        prop::collection::vec(byte, 0..64)
    }

    proptest! {
        #[test]
        fn an_accepted_path_is_made_of_harmless_components(bytes in hostile_bytes()) {
            if let Ok(path) = RelPath::parse(&bytes) {
                prop_assert_eq!(path.as_bytes(), &bytes[..]);
                for name in path.components() {
                    prop_assert!(!name.is_empty() && name != b"." && name != b"..");
                    prop_assert!(!name.contains(&b'/') && !name.contains(&0));
                }
                let joined: Vec<&[u8]> = path.components().collect();
                prop_assert_eq!(joined.join(&b'/'), bytes);
            }
        }

        #[test]
        fn parent_and_name_undo_join(bytes in hostile_bytes(), name in hostile_bytes()) {
            if let Ok(path) = RelPath::parse(&bytes)
                && let Ok(child) = path.join(&name)
            {
                prop_assert_eq!(child.file_name(), Some(&name[..]));
                prop_assert_eq!(child.parent(), Some(path));
                prop_assert_eq!(RelPath::parse(child.as_bytes()), Ok(child.clone()));
            }
        }
    }
}
