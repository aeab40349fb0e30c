//! A path from the wire: never a panic, and what is accepted cannot lead out of the share.
#![no_main]

use engine::share::RelPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(path) = RelPath::parse(bytes) {
        assert_eq!(path.as_bytes(), bytes);
        assert!(path.components().all(|name| !name.is_empty() && name != b"." && name != b".." && !name.contains(&0)));
    }
});
