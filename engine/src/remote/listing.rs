//! A directory of a host, gathered page by page.

use super::attr::RemoteAttr;
use std::collections::BTreeSet;
use transport::wire::Entry;

/// Entries of one listing: twice the million files that a share is promised to bear, if all lie in one folder. Only a
/// host that never comes to an end has more; at this bound its names and attributes have cost three quarters of a gigabyte.
pub const LISTING_ENTRIES_MAX: usize = 2 << 20;

/// Where a listing stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask for the page behind this cookie.
    Page(u64),
    /// Nothing follows.
    End,
}

/// Why a listing cannot be one: the host's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListingError {
    /// A page leads back to where another one began.
    #[error("the host's listing goes round in circles")]
    Circle,
    /// More than [`LISTING_ENTRIES_MAX`].
    #[error("the host lists more than {LISTING_ENTRIES_MAX} entries")]
    TooMany,
}

/// The pages of one directory that came so far; refuses a host that never comes to an end.
#[derive(Debug)]
pub(crate) struct Pages {
    entries_max: usize,
    entries: usize,
    /// Where they began.
    cursors: BTreeSet<u64>,
}

impl Pages {
    /// Begins at the directory's start, which is cookie 0.
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { entries_max, entries: 0, cursors: BTreeSet::from([0]) }
    }

    /// Takes a page in, of which `end` says whether it is the last. An empty one is, too.
    ///
    /// # Errors
    /// [`ListingError`].
    pub(crate) fn on_page(&mut self, page: &[Entry], end: bool) -> Result<Next, ListingError> {
        let Some(cursor) = page.last().map(|last| last.cookie) else { return Ok(Next::End) };
        self.entries += page.len();
        if self.entries > self.entries_max {
            return Err(ListingError::TooMany);
        }
        match end {
            true => Ok(Next::End),
            false if self.cursors.insert(cursor) => Ok(Next::Page(cursor)),
            false => Err(ListingError::Circle),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Listing {
    pages: Pages,
    entries: Vec<(Vec<u8>, RemoteAttr)>,
}

impl Listing {
    /// Begins at the directory's start, which is cookie 0.
    pub(super) fn new(entries_max: usize) -> Self {
        Self { pages: Pages::new(entries_max), entries: Vec::new() }
    }

    /// Takes a page in.
    pub(super) fn on_page(&mut self, page: Vec<Entry>, end: bool) -> Result<Next, ListingError> {
        let next = self.pages.on_page(&page, end)?;
        self.entries.extend(page.into_iter().map(|entry| (entry.name, entry.attr.into())));
        Ok(next)
    }

    /// All entries, in the host's order.
    pub(super) fn into_entries(self) -> Vec<(Vec<u8>, RemoteAttr)> {
        self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::empty_file_on_wire;

    fn entry(cookie: u64) -> Entry {
        Entry { name: cookie.to_string().into_bytes(), cookie, attr: empty_file_on_wire(cookie) }
    }

    #[test]
    fn pages_are_joined_in_order_whatever_their_cookies() {
        let mut listing = Listing::new(10);
        assert_eq!(listing.on_page(vec![entry(7), entry(9)], false), Ok(Next::Page(9)));
        assert_eq!(listing.on_page(vec![entry(3)], false), Ok(Next::Page(3)));
        // The last page may end anywhere: nothing is asked behind it.
        assert_eq!(listing.on_page(vec![entry(9)], true), Ok(Next::End));
        let names: Vec<Vec<u8>> = listing.into_entries().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [b"7", b"9", b"3", b"9"]);
        assert_eq!(Listing::new(10).on_page(Vec::new(), false), Ok(Next::End));
    }

    #[test]
    fn a_listing_that_leads_back_is_refused() {
        let mut listing = Listing::new(10);
        assert_eq!(listing.on_page(vec![entry(0)], false), Err(ListingError::Circle), "back to the start");
        let mut listing = Listing::new(10);
        assert_eq!(listing.on_page(vec![entry(5)], false), Ok(Next::Page(5)));
        assert_eq!(listing.on_page(vec![entry(6)], false), Ok(Next::Page(6)));
        assert_eq!(listing.on_page(vec![entry(5)], false), Err(ListingError::Circle));
    }

    #[test]
    fn a_listing_without_an_end_is_refused() {
        let mut listing = Listing::new(3);
        assert_eq!(listing.on_page(vec![entry(1), entry(2), entry(3)], false), Ok(Next::Page(3)));
        assert_eq!(listing.on_page(vec![entry(4)], true), Err(ListingError::TooMany));
    }
}
