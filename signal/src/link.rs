//! Join links: a code and where to try it, in one piece for a chat window or a QR code.
//!
//! ```text
//!   wormhole://join/CODE?host=ADDR:PORT&host=ADDR:PORT
//! ```
//!
//! The code is percent-free by its alphabet. `host` may be given up to [`LINK_HOSTS_MAX`] times, best
//! first, percent-encoded or not. Any other parameter is an error rather than a silent loss.

use zeroize::Zeroizing;

use crate::address::{HostAddress, HostAddressError};
use crate::code::{CodeError, JoinCode};
use crate::percent;

/// What every link begins with, in any case.
pub const LINK_SCHEME: &str = "wormhole://";

/// Most addresses in one link: a machine's few interfaces in both families. A link can make its
/// reader dial any address, so the number stays small.
pub const LINK_HOSTS_MAX: usize = 16;

/// Longest accepted link in bytes; [`LINK_HOSTS_MAX`] of the longest names do not fit, real ones do.
pub const LINK_BYTES_MAX: usize = 4096;

/// A join code with the addresses at which its host may be reached.
///
/// `Debug` hides the secret words; [`JoinLink::reveal`] writes the link out.
#[derive(Clone, Debug)]
pub struct JoinLink {
    code: JoinCode,
    hosts: Vec<HostAddress>,
}

impl JoinLink {
    /// Joins a code with the addresses of its host, best first.
    ///
    /// # Errors
    /// [`LinkError::TooManyHosts`] above [`LINK_HOSTS_MAX`]; [`LinkError::TooLong`] when the link
    /// would exceed [`LINK_BYTES_MAX`].
    pub fn new(code: JoinCode, hosts: Vec<HostAddress>) -> Result<Self, LinkError> {
        if hosts.len() > LINK_HOSTS_MAX {
            return Err(LinkError::TooManyHosts);
        }
        let link = Self { code, hosts };
        if link.reveal().len() > LINK_BYTES_MAX {
            return Err(LinkError::TooLong);
        }
        Ok(link)
    }

    /// Reads a link.
    ///
    /// # Errors
    /// A [`LinkError`] that repeats none of the text.
    pub fn parse(text: &str) -> Result<Self, LinkError> {
        if text.len() > LINK_BYTES_MAX {
            return Err(LinkError::TooLong);
        }
        let rest = strip_scheme(text.as_bytes()).map(|rest| &text[text.len() - rest.len()..]);
        let rest = rest.ok_or(LinkError::Scheme)?;
        let (action, rest) = rest.split_once('/').ok_or(LinkError::Action)?;
        if !action.eq_ignore_ascii_case("join") {
            return Err(LinkError::Action);
        }
        let (code, query) = rest.split_once('?').unwrap_or((rest, ""));
        let code = JoinCode::parse(code.strip_suffix('/').unwrap_or(code))?;
        let mut hosts = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let value = parameter.strip_prefix("host=").ok_or(LinkError::Parameter)?;
            if hosts.len() == LINK_HOSTS_MAX {
                return Err(LinkError::TooManyHosts);
            }
            let value = percent::decode(value.as_bytes()).and_then(|bytes| String::from_utf8(bytes).ok());
            hosts.push(value.ok_or(LinkError::Escape)?.parse::<HostAddress>()?);
        }
        Self::new(code, hosts)
    }

    /// The code.
    pub fn code(&self) -> &JoinCode {
        &self.code
    }

    /// Where to try it, best first; possibly nowhere.
    pub fn hosts(&self) -> &[HostAddress] {
        &self.hosts
    }

    /// Takes the link apart.
    pub fn into_parts(self) -> (JoinCode, Vec<HostAddress>) {
        (self.code, self.hosts)
    }

    /// Writes the link out, secret words included.
    pub fn reveal(&self) -> Zeroizing<String> {
        let hosts: Vec<String> = self.hosts.iter().map(HostAddress::to_string).collect();
        let code = self.code.reveal();
        // Room for every byte as `%XX`, so that no secret is left behind by a reallocation.
        let room: usize = hosts.iter().map(|host| "&host=".len() + 3 * host.len()).sum();
        let mut text = Zeroizing::new(String::with_capacity(LINK_SCHEME.len() + "join/".len() + code.len() + room));
        text.push_str(LINK_SCHEME);
        text.push_str("join/");
        text.push_str(&code);
        for (index, host) in hosts.iter().enumerate() {
            text.push_str(if index == 0 { "?host=" } else { "&host=" });
            // RFC 3986 §3.4 lets a query hold colons; brackets it does not.
            percent::encode(&mut text, host.as_bytes(), b":");
        }
        text
    }
}

/// What follows [`LINK_SCHEME`], when `bytes` begin with it in any case.
pub(crate) fn strip_scheme(bytes: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = bytes.split_at_checked(LINK_SCHEME.len())?;
    scheme.eq_ignore_ascii_case(LINK_SCHEME.as_bytes()).then_some(rest)
}

/// Why a text is not a join link. No variant carries any of the text, which may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It does not begin with [`LINK_SCHEME`].
    #[error("a link begins with {LINK_SCHEME}")]
    Scheme,
    /// The only known action is `join`.
    #[error("a link has the form {LINK_SCHEME}join/CODE?host=ADDR:PORT")]
    Action,
    /// The code in it is malformed.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// A parameter other than `host=`.
    #[error("the link holds a parameter other than host=; it may come from a newer version")]
    Parameter,
    /// A percent sign without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("the link is damaged: a percent escape in it is malformed")]
    Escape,
    /// A `host=` is not an address.
    #[error("a host in the link is malformed: {0}")]
    Host(#[from] HostAddressError),
    /// More than [`LINK_HOSTS_MAX`] addresses.
    #[error("the link holds more than {LINK_HOSTS_MAX} hosts")]
    TooManyHosts,
    /// Longer than [`LINK_BYTES_MAX`].
    #[error("the link is longer than {LINK_BYTES_MAX} bytes")]
    TooLong,
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::tests::any_host_address;

    /// Any link of a generated code.
    pub(crate) fn any_link() -> impl Strategy<Value = JoinLink> {
        (any::<[u8; 8]>(), prop::collection::vec(any_host_address(), 0..=LINK_HOSTS_MAX))
            .prop_map(|(random, hosts)| JoinLink::new(JoinCode::generate(&random), hosts).unwrap())
    }

    #[test]
    fn a_link_reads_as_documented() {
        let text = "wormhole://join/7-nebula-orbit-cedar?host=10.0.0.1:4433&host=%5Bfd00::1%5D:99";
        let link = JoinLink::parse(text).unwrap();
        assert_eq!(*link.reveal(), text);
        let loose = "WORMHOLE://Join/7-NEBULA-orbi-cedar/?host=10.0.0.1&&host=[fd00::1]%3A99";
        assert_eq!(*JoinLink::parse(loose).unwrap().reveal(), text);
        assert!(JoinLink::parse("wormhole://join/7-nebula-orbit-cedar").unwrap().hosts().is_empty());
        assert!(!format!("{link:?}").contains("nebula"));
    }

    #[test]
    fn bad_links_say_why() {
        let fails = |text: &str| JoinLink::parse(text).unwrap_err();
        let code = "wormhole://join/7-nebula-orbit-cedar";
        assert_eq!(fails("https://join/7-nebula-orbit-cedar"), LinkError::Scheme);
        assert_eq!(fails("wormhole:/"), LinkError::Scheme);
        assert_eq!(fails("wormhole://"), LinkError::Action);
        assert_eq!(fails("wormhole://leave/7-nebula-orbit-cedar"), LinkError::Action);
        assert_eq!(fails("wormhole://join/7-nebula"), CodeError::TooFewWords { found: 1 }.into());
        assert_eq!(fails(&format!("{code}?relay=x")), LinkError::Parameter);
        assert_eq!(fails(&format!("{code}?host=%5")), LinkError::Escape);
        assert_eq!(fails(&format!("{code}?host=%ff")), LinkError::Escape);
        assert_eq!(fails(&format!("{code}?host=h:0")), HostAddressError::Port.into());
        assert_eq!(fails(&format!("{code}?{}", "host=h&".repeat(17))), LinkError::TooManyHosts);
        assert_eq!(fails(&format!("{code}?{}", "&".repeat(LINK_BYTES_MAX))), LinkError::TooLong);
    }

    proptest! {
        #[test]
        fn what_is_revealed_parses_back(link in any_link()) {
            let again = JoinLink::parse(&link.reveal()).unwrap();
            prop_assert_eq!(again.hosts(), link.hosts());
            prop_assert_eq!(again.reveal(), link.reveal());
        }

        #[test]
        fn any_text_parses_or_fails(text in "(wormhole://(join/)?)?\\PC{0,60}") {
            if let Ok(link) = JoinLink::parse(&text) {
                prop_assert_eq!(JoinLink::parse(&link.reveal()).unwrap().reveal(), link.reveal());
            }
        }
    }
}
