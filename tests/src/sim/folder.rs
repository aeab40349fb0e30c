//! A folder to share, with contents that can be told from any other bytes.

use super::rng::Rng;
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Bytes of the file `large`.
pub const LARGE_BYTES: usize = 3 << 20;
/// Bytes of the file `holes`: mostly no blocks, so that the host takes the slow way through its ring.
pub const HOLES_BYTES: usize = 640 << 10;
/// Where the one written piece of `holes` lies, and how long it is.
const HOLES_DATA: (usize, usize) = (300_000, 5_000);
/// What no answer of a host may ever contain.
pub const OUTSIDE: &[u8] = b"this line lies outside of the share";

/// `size` bytes of the stream that `name` names.
///
/// # Panics
/// Beyond 4 MiB.
pub fn content(name: &str, size: usize) -> Vec<u8> {
    static POOL: OnceLock<Vec<u8>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        let mut rng = Rng::new(42);
        (0..(5 << 20) / 8).flat_map(|_| rng.bits().to_le_bytes()).collect()
    });
    let shift = name.bytes().fold(7usize, |sum, byte| (sum * 31 + usize::from(byte)) % (1 << 20));
    pool[shift..shift + size].to_vec()
}

/// A folder that is shared, beside one that is not and the host's state. Deleted with this value.
pub struct Folder {
    root: TempDir,
}

impl Folder {
    /// Creates `empty`, `one`, `even` (64 KiB), `odd` (64 KiB + 1), `large` and `holes`, `dir/inner/deep`, a symlink to
    /// what is outside, and what is outside.
    ///
    /// # Panics
    /// Where no file can be written.
    pub fn new() -> Self {
        // Memory where there is some to write to: the simulator's time is to go into the cores.
        let shm = Path::new("/dev/shm");
        let root = tempfile::Builder::new()
            .prefix("wormhole-sim-")
            .tempdir_in(if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() })
            .expect("a temporary folder");
        let folder = Self { root };
        fs::create_dir_all(folder.share().join("dir/inner")).expect("folders");
        fs::create_dir_all(folder.state()).expect("the state folder");
        for (name, size) in Self::FILES {
            if name == "holes" {
                let file = fs::File::create(folder.share().join(name)).expect("a file");
                file.set_len(HOLES_BYTES as u64).expect("a file of holes");
                file.write_all_at(&content(name, HOLES_DATA.1), HOLES_DATA.0 as u64).expect("a piece of data");
            } else {
                fs::write(folder.share().join(name), content(name, size)).expect("a file");
            }
        }
        fs::write(folder.root.path().join("outside"), OUTSIDE).expect("a file");
        symlink("../outside", folder.share().join("leak")).expect("a symlink");
        symlink("..", folder.share().join("up")).expect("a symlink");
        folder
    }

    /// Every regular file's path and size.
    pub const FILES: [(&'static str, usize); 7] = [
        ("empty", 0),
        ("one", 1),
        ("even", 64 << 10),
        ("odd", (64 << 10) + 1),
        ("large", LARGE_BYTES),
        ("holes", HOLES_BYTES),
        ("dir/inner/deep", 1_000),
    ];

    /// What the file at `name` held when the folder was made.
    pub fn expected(name: &str) -> Vec<u8> {
        let (_, size) = Self::FILES.into_iter().find(|(path, _)| *path == name).expect("a file of the folder");
        if name != "holes" {
            return content(name, size);
        }
        let mut bytes = vec![0; size];
        bytes[HOLES_DATA.0..HOLES_DATA.0 + HOLES_DATA.1].copy_from_slice(&content(name, HOLES_DATA.1));
        bytes
    }

    /// The folder that is shared.
    pub fn share(&self) -> PathBuf {
        self.root.path().join("share")
    }

    /// The host's state.
    pub fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}
