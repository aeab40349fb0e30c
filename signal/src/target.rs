//! The grammar of TARGET and TARGET:SUBPATH on the command line.
//!
//! ```text
//!   remote  = link [ "#" subpath ]
//!           | code [ ":" subpath ]
//!           | host [ ":" port ] [ ":" subpath ]
//!   link    = "wormhole://join/" code [ "?host=" address { "&host=" address } ]
//!   code    = number 3*( separator word )          as `JoinCode::parse` reads it
//!   host    = name | IPv4 | "[" IPv6 "]"
//!   port    = 1..65535                             4433 when left out
//!   subpath = [ "/" ] name { "/" name }            below the root of the share; any bytes but NUL
//! ```
//!
//! Read from the left, first match wins:
//!
//! - What begins with `wormhole://` is a link; in it the subpath is percent-encoded.
//! - What stands before the first colon and reads as a code is a code. What looks like one with a
//!   mistake in it, as `7-orbit`, is refused: a resolver would pass the secret words on. A host whose
//!   name looks like either is written with a final dot: `7-a-b-c.`
//! - After a host, digits up to the next colon or the end are the port. A subpath of digits alone
//!   needs the slash: `studio:/123`.
//! - A subpath does not begin with a colon: the name `:x` is written `studio:/:x`, so that
//!   `fd00::1` without brackets is reported rather than taken for the host `fd00`.
//!
//! A subpath is relative to the share whether or not it begins with a slash; empty names and `.` are
//! dropped, `..` is refused. What [`RemotePath::reveal`] writes always reads back as the same value.

use std::fmt;
use std::net::Ipv6Addr;
use std::str;

use zeroize::Zeroizing;

use crate::address::{DEFAULT_PORT, Host, HostAddress, HostAddressError, parse_port};
use crate::code::{CODE_WORDS_MIN, CodeError, JoinCode, is_separator, looks_like_code};
use crate::link::{JoinLink, LinkError, strip_scheme};
use crate::percent;

/// Longest subpath in bytes, Linux's PATH_MAX.
pub const SUBPATH_BYTES_MAX: usize = 4096;

/// Longest name within a subpath in bytes, Linux's NAME_MAX.
pub const SUBPATH_NAME_BYTES_MAX: usize = 255;

/// Which share is meant.
#[derive(Clone, Debug)]
pub enum Target {
    /// A join code, to be found by its nameplate.
    Code(JoinCode),
    /// A join link, a code with addresses.
    Link(JoinLink),
    /// The address of a host; a code for the first visit comes from elsewhere.
    Host(HostAddress),
}

impl Target {
    /// Reads a target that must not carry a subpath, as `mount` takes it.
    ///
    /// # Errors
    /// A [`TargetError`]; [`TargetError::UnexpectedSubPath`] when a subpath follows.
    pub fn parse(bytes: &[u8]) -> Result<Self, TargetError> {
        let remote = RemotePath::parse(bytes)?;
        if remote.subpath.is_root() { Ok(remote.target) } else { Err(TargetError::UnexpectedSubPath) }
    }

    /// Writes the target out, secret words included.
    pub fn reveal(&self) -> Zeroizing<String> {
        match self {
            Self::Code(code) => code.reveal(),
            Self::Link(link) => link.reveal(),
            Self::Host(HostAddress { host: Host::Name(name), port })
                if matches!(parse_code(name), Some(Ok(_))) || looks_like_code(name) =>
            {
                // The final dot keeps a name that looks like a code from being read as one.
                Zeroizing::new(format!("{name}.:{port}"))
            }
            Self::Host(address) => Zeroizing::new(address.to_string()),
        }
    }
}

/// A place within a share, as `get`, `put` and `ls` take it.
#[derive(Clone, Debug)]
pub struct RemotePath {
    /// Which share.
    pub target: Target,
    /// Where in it; the root when none was given.
    pub subpath: SubPath,
}

impl RemotePath {
    /// Reads the bytes of one command-line argument.
    ///
    /// # Errors
    /// A [`TargetError`] that repeats none of the bytes, which may hold a secret.
    pub fn parse(bytes: &[u8]) -> Result<Self, TargetError> {
        if bytes.is_empty() {
            return Err(TargetError::Empty);
        }
        if strip_scheme(bytes).is_some() {
            return Self::parse_link(bytes);
        }
        let (head, rest) = split_once(bytes, b':');
        let head_text = str::from_utf8(head).map_err(|_| HostAddressError::Host)?;
        let code = parse_code(head_text);
        if let Some(Ok(code)) = code {
            return Ok(Self { target: Target::Code(code), subpath: subpath_after(rest)? });
        }
        if str::from_utf8(bytes).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok()) {
            return Err(HostAddressError::Ipv6WithoutBrackets.into());
        }
        let (host, rest) = split_host(bytes)?;
        let host = Host::parse(host).map_err(|error| match code {
            Some(Err(not_a_code)) => TargetError::Code(not_a_code),
            _ => error.into(),
        })?;
        if matches!(host, Host::Name(_)) && looks_like_code(head_text) {
            return Err(TargetError::LooksLikeCode);
        }
        let (port, rest) = split_port(rest)?;
        let target = Target::Host(HostAddress { host, port });
        Ok(Self { target, subpath: subpath_after(rest)? })
    }

    /// Writes target and subpath out, secret words included, so that [`RemotePath::parse`] reads
    /// the same value back.
    pub fn reveal(&self) -> Zeroizing<Vec<u8>> {
        let target = self.target.reveal();
        // Room for every byte as `%XX`, so that no secret is left behind by a reallocation.
        let room = target.len() + "#/".len() + 3 * self.subpath.as_bytes().len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        bytes.extend_from_slice(target.as_bytes());
        if self.subpath.is_root() {
            return bytes;
        }
        if let Target::Link(_) = self.target {
            let mut encoded = String::new();
            percent::encode(&mut encoded, self.subpath.as_bytes(), b"/");
            bytes.extend_from_slice(b"#/");
            bytes.extend_from_slice(encoded.as_bytes());
        } else {
            bytes.extend_from_slice(b":/");
            bytes.extend_from_slice(self.subpath.as_bytes());
        }
        bytes
    }

    fn parse_link(bytes: &[u8]) -> Result<Self, TargetError> {
        let (link, fragment) = split_once(bytes, b'#');
        let link = str::from_utf8(link).map_err(|_| LinkError::Escape)?;
        let link = JoinLink::parse(link)?;
        let subpath = percent::decode(fragment.unwrap_or_default()).ok_or(LinkError::Escape)?;
        Ok(Self { target: Target::Link(link), subpath: SubPath::new(&subpath)? })
    }
}

/// A path below the root of a share: names joined by one slash each, any bytes, no `.` or `..`.
///
/// This is the first wall only; the host resolves every name beneath the share's root by itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SubPath(Vec<u8>);

impl SubPath {
    /// The root of the share.
    pub const ROOT: Self = Self(Vec::new());

    /// Brings a path into its one written form.
    ///
    /// # Errors
    /// A [`SubPathError`] for what can name nothing in a share.
    pub fn new(path: &[u8]) -> Result<Self, SubPathError> {
        if path.len() > SUBPATH_BYTES_MAX {
            return Err(SubPathError::TooLong);
        }
        if path.contains(&0) {
            return Err(SubPathError::Nul);
        }
        let mut names = Vec::new();
        for name in path.split(|&byte| byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err(SubPathError::Parent),
                _ if name.len() > SUBPATH_NAME_BYTES_MAX => return Err(SubPathError::NameTooLong),
                _ => names.push(name),
            }
        }
        Ok(Self(names.join(&b'/')))
    }

    /// Whether this is the root of the share.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path without leading or trailing slash; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names from the root down; none for the root.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
    }
}

impl fmt::Debug for SubPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubPath(\"{}\")", self.0.escape_ascii())
    }
}

impl fmt::Display for SubPath {
    /// Writes `/` and the path; bytes that are not UTF-8 show as U+FFFD, so use
    /// [`SubPath::as_bytes`] for anything but people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

/// Why a path can name nothing in a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubPathError {
    /// It goes up with `..`.
    #[error("the path inside the share must not contain ..")]
    Parent,
    /// It holds a NUL byte.
    #[error("the path inside the share holds a NUL byte")]
    Nul,
    /// A name exceeds [`SUBPATH_NAME_BYTES_MAX`].
    #[error("a name in the path inside the share is longer than {SUBPATH_NAME_BYTES_MAX} bytes")]
    NameTooLong,
    /// The path exceeds [`SUBPATH_BYTES_MAX`].
    #[error("the path inside the share is longer than {SUBPATH_BYTES_MAX} bytes")]
    TooLong,
    /// It begins with a colon where only a port or a path can stand.
    #[error("two colons in a row; write an IPv6 address in brackets, and a name that begins with a colon as /:NAME")]
    Colon,
}

/// Why an argument names no share. No variant carries any of it, since it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The argument is empty.
    #[error("the target is empty; give a join code, a wormhole:// link or HOST[:PORT]")]
    Empty,
    /// It begins like a join code, is none, and cannot be a host either.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// It could be a host's name, and is more likely a join code that somebody did not type whole.
    #[error(
        "it looks like a join code with a mistake in it: a code is a number and at least {CODE_WORDS_MIN} words; \
         a host of such a name is written with a dot behind it"
    )]
    LooksLikeCode,
    /// A malformed link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A malformed host or port.
    #[error(transparent)]
    Host(#[from] HostAddressError),
    /// A path that cannot be in a share.
    #[error(transparent)]
    SubPath(#[from] SubPathError),
    /// A subpath follows where a whole share is meant.
    #[error("a path inside the share cannot be given here; name the share only")]
    UnexpectedSubPath,
}

/// What stands before and after the first `byte`.
fn split_once(bytes: &[u8], byte: u8) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|&each| each == byte) {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    }
}

/// Parts the host, brackets included, from what follows its colon.
fn split_host(bytes: &[u8]) -> Result<(&str, Option<&[u8]>), HostAddressError> {
    let host_end = if bytes.starts_with(b"[") {
        bytes.iter().position(|&byte| byte == b']').ok_or(HostAddressError::Brackets)? + 1
    } else {
        bytes.iter().position(|&byte| byte == b':').unwrap_or(bytes.len())
    };
    let host = str::from_utf8(&bytes[..host_end]).map_err(|_| HostAddressError::Host)?;
    match bytes[host_end..].split_first() {
        None => Ok((host, None)),
        Some((b':', rest)) => Ok((host, Some(rest))),
        Some(_) => Err(HostAddressError::Brackets),
    }
}

/// Takes the port off the head of `rest`, when there is one.
fn split_port(rest: Option<&[u8]>) -> Result<(u16, Option<&[u8]>), HostAddressError> {
    let Some(bytes) = rest else {
        return Ok((DEFAULT_PORT, None));
    };
    let (head, tail) = split_once(bytes, b':');
    if head.is_empty() || !head.iter().all(u8::is_ascii_digit) {
        return Ok((DEFAULT_PORT, rest));
    }
    let digits = str::from_utf8(head).expect("digits are ASCII");
    Ok((parse_port(digits)?, tail))
}

/// Reads what follows the colon before a subpath.
fn subpath_after(rest: Option<&[u8]>) -> Result<SubPath, SubPathError> {
    let path = rest.unwrap_or_default();
    if path.starts_with(b":") { Err(SubPathError::Colon) } else { SubPath::new(path) }
}

/// Reads a code where people can have had one in mind: a number alone, or before a separator.
fn parse_code(text: &str) -> Option<Result<JoinCode, CodeError>> {
    let text = text.trim_start();
    let after = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let begins_like_one = after.len() < text.len() && after.chars().next().is_none_or(is_separator);
    begins_like_one.then(|| JoinCode::parse(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::tests::any_host_address;
    use crate::link::tests::any_link;

    const CODE: &str = "7-nebula-orbit-cedar";

    /// Writes what was understood: kind, target, subpath.
    fn read(text: &str) -> Result<(&'static str, String, String), TargetError> {
        let remote = RemotePath::parse(text.as_bytes())?;
        let kind = match remote.target {
            Target::Code(_) => "code",
            Target::Link(_) => "link",
            Target::Host(_) => "host",
        };
        Ok((kind, remote.target.reveal().to_string(), remote.subpath.to_string()))
    }

    #[test]
    fn the_grammar_by_example() {
        let link = format!("wormhole://join/{CODE}");
        for (text, kind, target, subpath) in [
            (CODE.to_owned(), "code", CODE, "/"),
            ("7 Nebula ORBI cedar:a b".to_owned(), "code", CODE, "/a b"),
            (format!("{CODE}:4433"), "code", CODE, "/4433"),
            (format!("{CODE}:a:b"), "code", CODE, "/a:b"),
            (format!("{CODE}.:a"), "host", "7-nebula-orbit-cedar.:4433", "/a"),
            (link.clone(), "link", &link, "/"),
            (format!("{link}#/a%20b//./c/"), "link", &link, "/a b/c"),
            (format!("{link}#a:b#c"), "link", &link, "/a:b#c"),
            ("studio".to_owned(), "host", "studio:4433", "/"),
            ("studio:".to_owned(), "host", "studio:4433", "/"),
            ("studio:99".to_owned(), "host", "studio:99", "/"),
            ("studio:99:".to_owned(), "host", "studio:99", "/"),
            ("studio:99:7".to_owned(), "host", "studio:99", "/7"),
            ("studio:shots/a".to_owned(), "host", "studio:4433", "/shots/a"),
            ("studio:/99".to_owned(), "host", "studio:4433", "/99"),
            ("studio:99a:b".to_owned(), "host", "studio:4433", "/99a:b"),
            ("studio:/:x".to_owned(), "host", "studio:4433", "/:x"),
            ("10.0.0.1:shots".to_owned(), "host", "10.0.0.1:4433", "/shots"),
            ("[fd00::1]".to_owned(), "host", "[fd00::1]:4433", "/"),
            ("[fd00::1]:99:a:b".to_owned(), "host", "[fd00::1]:99", "/a:b"),
            ("_7-a-b-c".to_owned(), "host", "_7-a-b-c:4433", "/"),
            ("7-eleven".to_owned(), "host", "7-eleven:4433", "/"),
            ("7-orbit.".to_owned(), "host", "7-orbit.:4433", "/"),
            ("orbit-ocean-zebra.".to_owned(), "host", "orbit-ocean-zebra.:4433", "/"),
            ("orbit-ocean".to_owned(), "host", "orbit-ocean:4433", "/"),
            ("orbit-ocean-zebra.lan".to_owned(), "host", "orbit-ocean-zebra.lan:4433", "/"),
            ("node-7-orbit-ocean".to_owned(), "host", "node-7-orbit-ocean:4433", "/"),
        ] {
            let expected = Ok((kind, target.to_owned(), subpath.to_owned()));
            assert_eq!(read(&text), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, error) in [
            ("", TargetError::Empty),
            ("fd00::1", HostAddressError::Ipv6WithoutBrackets.into()),
            ("fd00::1:/a", SubPathError::Colon.into()),
            ("studio::a", SubPathError::Colon.into()),
            ("7-nebula-orbit-cedar::a", SubPathError::Colon.into()),
            ("studio:99::a", SubPathError::Colon.into()),
            ("[fd00::1", HostAddressError::Brackets.into()),
            ("[fd00::1]a", HostAddressError::Brackets.into()),
            ("studio:0", HostAddressError::Port.into()),
            ("studio:65536:a", HostAddressError::Port.into()),
            ("stu dio", HostAddressError::Host.into()),
            (":a", HostAddressError::Host.into()),
            ("4821", CodeError::TooFewWords { found: 0 }.into()),
            ("7 nebula", CodeError::TooFewWords { found: 1 }.into()),
            ("7-nebula-örbit-cedar:a", CodeError::Character { word: 2 }.into()),
            ("4821-orbit", TargetError::LooksLikeCode),
            ("4821-orbit-ocean:a", TargetError::LooksLikeCode),
            ("4821-orbit-ocean:4433", TargetError::LooksLikeCode),
            ("4821-ORBI-zebrra", TargetError::LooksLikeCode),
            ("12345678-orbit-ocean-zebra-able", TargetError::LooksLikeCode),
            ("orbit-ocean-zebra-able", TargetError::LooksLikeCode),
            ("studio:a/../b", SubPathError::Parent.into()),
            ("studio:a\0b", SubPathError::Nul.into()),
            ("wormhole://join/7-nebula-orbit-cedar#%2e%2e", SubPathError::Parent.into()),
            ("wormhole://join/7-nebula-orbit-cedar#%zz", LinkError::Escape.into()),
        ] {
            assert_eq!(read(text), Err(error), "{text}");
        }
        let long = format!("studio:{}", "a".repeat(256));
        assert_eq!(read(&long), Err(SubPathError::NameTooLong.into()));
        let long = format!("studio:{}", "a/".repeat(SUBPATH_BYTES_MAX / 2 + 1));
        assert_eq!(read(&long), Err(SubPathError::TooLong.into()));
    }

    #[test]
    fn a_host_named_like_a_code_is_written_with_a_final_dot() {
        let target = Target::Host("7-a-b-c".parse().unwrap());
        assert_eq!(*target.reveal(), "7-a-b-c.:4433");
        assert!(matches!(Target::parse(target.reveal().as_bytes()), Ok(Target::Host(_))));
    }

    #[test]
    fn a_whole_share_takes_no_subpath() {
        assert!(Target::parse(b"studio:99").is_ok());
        assert!(Target::parse(b"studio:99:/").is_ok());
        assert_eq!(Target::parse(b"studio:a").unwrap_err(), TargetError::UnexpectedSubPath);
    }

    #[test]
    fn debug_keeps_the_secret() {
        for text in [CODE.to_owned(), format!("wormhole://join/{CODE}?host=h#a")] {
            let shown = format!("{:?}", RemotePath::parse(text.as_bytes()).unwrap());
            assert!(!shown.contains("nebula"), "{shown}");
        }
    }

    fn any_target() -> impl Strategy<Value = Target> {
        prop_oneof![
            any::<[u8; 8]>().prop_map(|random| Target::Code(JoinCode::generate(&random))),
            any_link().prop_map(Target::Link),
            any_host_address().prop_map(Target::Host),
            // Hosts and names that could be taken for something else.
            "[0-9a-f]{1,4}[a-f]".prop_map(|name| Target::Host(HostAddress { host: Host::Name(name), port: 4433 })),
        ]
    }

    fn any_subpath() -> impl Strategy<Value = SubPath> {
        let name =
            prop_oneof![prop::collection::vec(1..=u8::MAX, 1..20), "[0-9:#%. -]{1,6}".prop_map(String::into_bytes),];
        prop::collection::vec(name, 0..5).prop_filter_map("goes up", |names| SubPath::new(&names.join(&b'/')).ok())
    }

    proptest! {
        #[test]
        fn what_is_revealed_parses_back(target in any_target(), subpath in any_subpath()) {
            let remote = RemotePath { target, subpath };
            let again = RemotePath::parse(&remote.reveal()).unwrap();
            prop_assert_eq!(&again.subpath, &remote.subpath);
            prop_assert_eq!(again.target.reveal(), remote.target.reveal());
            prop_assert_eq!(
                std::mem::discriminant(&again.target),
                std::mem::discriminant(&remote.target)
            );
        }

        #[test]
        fn any_bytes_parse_or_fail(bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "(wormhole://join/)?[0-9a-f:.\\[\\]/#%? -]{0,40}".prop_map(String::into_bytes),
        ]) {
            if let Ok(remote) = RemotePath::parse(&bytes) {
                let again = RemotePath::parse(&remote.reveal()).unwrap();
                prop_assert_eq!(again.reveal(), remote.reveal());
                prop_assert!(again.subpath.names().all(|name| name != b".." && !name.is_empty()));
            }
        }
    }
}
