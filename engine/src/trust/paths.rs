//! Where a node keeps its things, by the XDG Base Directory Specification.
//!
//! | folder | first that is set |
//! | --- | --- |
//! | state | `$WORMHOLE_STATE_DIR`, `$XDG_STATE_HOME/wormhole`, `$HOME/.local/state/wormhole` |
//! | config | `$WORMHOLE_CONFIG_DIR`, `$XDG_CONFIG_HOME/wormhole`, `$HOME/.config/wormhole` |
//! | runtime | `$WORMHOLE_RUNTIME_DIR`, `$XDG_RUNTIME_DIR/wormhole`, `/tmp/wormhole-UID` |
//!
//! An empty variable counts as unset, and so does a relative XDG path, as the specification asks. A
//! relative `$WORMHOLE_*_DIR` is taken from the working folder. Mount units run without HOME, so a
//! missing one is an error that says what to set, never a guess.
//!
//! The environment comes in as a function, `|name| std::env::var_os(name)` in a program.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::store::{StoreError, ensure_exclusive_dir, ensure_private_dir};

/// Folder of this program within a folder that programs share.
const PROGRAM: &str = "wormhole";

/// How one kind of folder is found.
struct Rule {
    ours: &'static str,
    xdg: &'static str,
    below_home: Option<&'static str>,
}

const STATE: Rule = Rule { ours: "WORMHOLE_STATE_DIR", xdg: "XDG_STATE_HOME", below_home: Some(".local/state") };
const CONFIG: Rule = Rule { ours: "WORMHOLE_CONFIG_DIR", xdg: "XDG_CONFIG_HOME", below_home: Some(".config") };
const RUNTIME: Rule = Rule { ours: "WORMHOLE_RUNTIME_DIR", xdg: "XDG_RUNTIME_DIR", below_home: None };

/// Why a folder cannot be named or used.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// Nothing in the environment says where it is.
    #[error("cannot tell where to keep files: set {ours}, {xdg} or HOME to an absolute path")]
    Unset {
        /// The variable of this program.
        ours: &'static str,
        /// The variable of the XDG specification.
        xdg: &'static str,
    },
    /// A relative path was given and there is no working folder to take it from.
    #[error("cannot take the relative path in {variable} from the working folder")]
    WorkingDir {
        /// The variable that holds it.
        variable: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The runtime folder cannot be made, or others could reach into it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where keys and lists of trust are. The folder is not made here.
///
/// # Errors
/// [`PathsError::Unset`] or [`PathsError::WorkingDir`].
pub fn state_dir(env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, PathsError> {
    STATE.required(env)
}

/// Where `config.toml` is. The folder is not made here.
///
/// # Errors
/// [`PathsError::Unset`] or [`PathsError::WorkingDir`].
pub fn config_dir(env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, PathsError> {
    CONFIG.required(env)
}

/// Where sockets and process ids are; made 0700 if missing.
///
/// # Errors
/// [`PathsError::Store`] when it belongs to another user or is open to others: in `/tmp` anybody may
/// make a folder of our name first, and whoever owns it could stand in for our sockets.
pub fn runtime_dir(env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, PathsError> {
    runtime_dir_or_below(env, Path::new("/tmp"))
}

fn runtime_dir_or_below(env: impl Fn(&str) -> Option<OsString>, shared: &Path) -> Result<PathBuf, PathsError> {
    if let Some(dir) = RUNTIME.resolve(env)? {
        ensure_private_dir(&dir)?;
        return Ok(dir);
    }
    let dir = shared.join(format!("{PROGRAM}-{}", rustix::process::geteuid().as_raw()));
    ensure_exclusive_dir(&dir)?;
    Ok(dir)
}

impl Rule {
    fn required(&self, env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, PathsError> {
        self.resolve(env)?.ok_or(PathsError::Unset { ours: self.ours, xdg: self.xdg })
    }

    fn resolve(&self, env: impl Fn(&str) -> Option<OsString>) -> Result<Option<PathBuf>, PathsError> {
        let path_in = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let absolute_in = |name: &str| path_in(name).filter(|path| path.is_absolute());
        if let Some(dir) = path_in(self.ours) {
            let dir = std::path::absolute(dir);
            let failed = |source| PathsError::WorkingDir { variable: self.ours, source };
            return dir.map(Some).map_err(failed);
        }
        let shared = absolute_in(self.xdg).or_else(|| Some(absolute_in("HOME")?.join(self.below_home?)));
        Ok(shared.map(|dir| dir.join(PROGRAM)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + Copy + 'a {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
    }

    #[test]
    fn the_nearest_variable_wins() {
        let home = [("HOME", "/h")];
        let xdg = [("HOME", "/h"), ("XDG_STATE_HOME", "/s"), ("XDG_CONFIG_HOME", "/c")];
        let ours =
            [("HOME", "/h"), ("XDG_STATE_HOME", "/s"), ("WORMHOLE_STATE_DIR", "/o/s"), ("WORMHOLE_CONFIG_DIR", "/o/c")];
        for (pairs, state, config) in [
            (&home[..], "/h/.local/state/wormhole", "/h/.config/wormhole"),
            (&xdg, "/s/wormhole", "/c/wormhole"),
            (&ours, "/o/s", "/o/c"),
        ] {
            assert_eq!(state_dir(env(pairs)).unwrap(), Path::new(state));
            assert_eq!(config_dir(env(pairs)).unwrap(), Path::new(config));
        }
    }

    #[test]
    fn empty_and_relative_values_are_passed_over() {
        let pairs = [("WORMHOLE_STATE_DIR", ""), ("XDG_STATE_HOME", "rel"), ("HOME", "/h")];
        assert_eq!(state_dir(env(&pairs)).unwrap(), Path::new("/h/.local/state/wormhole"));
        let relative = state_dir(env(&[("WORMHOLE_STATE_DIR", "rel")])).unwrap();
        assert!(relative.is_absolute() && relative.ends_with("rel"));
    }

    #[test]
    fn without_a_home_the_error_says_what_to_set() {
        for pairs in [&[][..], &[("HOME", "")], &[("HOME", "rel")]] {
            let error = state_dir(env(pairs)).unwrap_err().to_string();
            assert!(error.contains("WORMHOLE_STATE_DIR") && error.contains("XDG_STATE_HOME"));
        }
    }

    #[test]
    fn the_runtime_folder_is_ours_alone() {
        let root = tempfile::tempdir().unwrap();
        let xdg = root.path().join("run");
        let text = xdg.to_str().unwrap();
        let dir = runtime_dir(env(&[("XDG_RUNTIME_DIR", text)])).unwrap();
        assert_eq!(dir, xdg.join("wormhole"));
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700);

        let none = env(&[]);
        let shared = runtime_dir_or_below(none, root.path()).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(shared, root.path().join(format!("wormhole-{uid}")));
        assert_eq!(fs::metadata(&shared).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(runtime_dir_or_below(none, root.path()).unwrap(), shared);

        fs::set_permissions(&shared, Permissions::from_mode(0o750)).unwrap();
        let refused = runtime_dir_or_below(none, root.path()).unwrap_err();
        assert!(matches!(refused, PathsError::Store(StoreError::DirOpen { .. })));

        fs::remove_dir(&shared).unwrap();
        symlink(&dir, &shared).unwrap();
        let refused = runtime_dir_or_below(none, root.path()).unwrap_err();
        assert!(matches!(refused, PathsError::Store(StoreError::NotDir { .. })));
        if rustix::process::geteuid().is_root() {
            fs::remove_file(&shared).unwrap();
            fs::create_dir(&shared).unwrap();
            fs::set_permissions(&shared, Permissions::from_mode(0o700)).unwrap();
            chown(&shared, Some(12_345), None).unwrap();
            let refused = runtime_dir_or_below(none, root.path()).unwrap_err();
            assert!(matches!(refused, PathsError::Store(StoreError::DirOwner { owner: 12_345, .. })));
        }
    }
}
