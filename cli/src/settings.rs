//! Settings: what a flag, the environment, the file or the default says, in this order.
//!
//! The table [`KNOBS`] is the one place that names them. A name that is not in it, or a value out of
//! range, is an error that says where it stands.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml_edit::{Document, DocumentMut, Item, Value};

use crate::exit::Failure;

/// A setting that will be, with its variable; to give it is an error until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    key: &'static str,
    variable: &'static str,
    /// What there is not yet.
    what: &'static str,
    /// What to do about the variable.
    remedy: &'static str,
}

/// The server by which hosts are found without an address.
pub const SIGNAL_SERVER: Missing = Missing {
    key: "signal_server",
    variable: "WORMHOLE_SIGNAL_SERVER",
    what: "signal server",
    remedy: "unset it or give --no-signal",
};

/// The folder of the disk cache.
pub const CACHE_DIR: Missing =
    Missing { key: "cache_dir", variable: "WORMHOLE_CACHE_DIR", what: "disk cache", remedy: "unset it" };

const MISSING: [Missing; 2] = [SIGNAL_SERVER, CACHE_DIR];

/// Largest settings file in bytes; the whole table with long comments is a hundredth of it.
const FILE_BYTES_MAX: usize = 1 << 20;

/// What values a setting takes.
#[derive(Debug, Clone, Copy)]
pub enum Range {
    /// A whole number, both ends included.
    Integer(u32, u32),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any text that is not empty.
    Text,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Knob {
    /// Its name in the file, with its unit.
    pub key: &'static str,
    /// The variable that overrides the file.
    pub variable: Option<&'static str>,
    /// What holds otherwise; `None` where the engine chooses.
    pub default: Option<&'static str>,
    /// What values it takes.
    pub range: Range,
}

/// Every setting. The ranges are those of the flags of the same names in `args.rs`.
pub const KNOBS: [Knob; 8] = [
    // `auto` takes what was measured to suit most uses.
    Knob { key: "fuse", variable: None, default: Some("auto"), range: Range::Word(&["auto", "device", "uring"]) },
    // `auto` takes io_uring where it works.
    Knob { key: "io", variable: None, default: Some("auto"), range: Range::Word(&["auto", "uring", "poll"]) },
    // Warnings concern the user; more is for finding faults.
    Knob {
        key: "log_level",
        variable: Some("WORMHOLE_LOG_LEVEL"),
        default: Some("warn"),
        range: Range::Word(&["off", "error", "warn", "info", "debug", "trace"]),
    },
    // The share's name; the folder's own where nothing is set.
    Knob { key: "name", variable: None, default: None, range: Range::Text },
    // The port that links and targets without one mean (`signal::DEFAULT_PORT`).
    Knob { key: "port", variable: Some("WORMHOLE_PORT"), default: Some("4433"), range: Range::Integer(1, 65_535) },
    // A workstation spares it, and it holds a second at 4 Gbit/s.
    Knob { key: "ram_cache_mb", variable: None, default: Some("512"), range: Range::Integer(1, 1_048_576) },
    // The engine takes 4096 where it may.
    Knob { key: "read_ahead_kb", variable: None, default: None, range: Range::Integer(0, 1_048_576) },
    // Longer than any reconnect on a LAN, shorter than a person's patience.
    Knob { key: "timeout_s", variable: None, default: Some("10"), range: Range::Integer(1, 3600) },
];

impl Knob {
    fn named(key: &str) -> Result<&'static Self, String> {
        if let Some(missing) = MISSING.iter().find(|missing| missing.key == key) {
            return Err(format!("there is no {} yet; remove this setting", missing.what));
        }
        KNOBS.iter().find(|knob| knob.key == key).ok_or_else(|| {
            let keys: Vec<&str> = KNOBS.iter().map(|knob| knob.key).collect();
            format!("there is no setting `{key}`; there are {}", keys.join(", "))
        })
    }

    /// Checks a value and brings it into its one form.
    fn check(&self, text: &str) -> Result<String, String> {
        let key = self.key;
        match self.range {
            Range::Integer(min, max) => match text.parse::<u32>() {
                Ok(number) if (min..=max).contains(&number) => Ok(number.to_string()),
                _ => Err(format!("`{key}` must be a whole number from {min} to {max}")),
            },
            Range::Word(words) if words.contains(&text) => Ok(text.to_owned()),
            Range::Word(words) => Err(format!("`{key}` must be one of {}", words.join(", "))),
            Range::Text if text.is_empty() => Err(format!("`{key}` must not be empty")),
            Range::Text => Ok(text.to_owned()),
        }
    }

    /// The value as the file writes it; `text` was checked.
    fn to_toml(self, text: &str) -> Value {
        match (self.range, text.parse::<i64>()) {
            (Range::Integer(..), Ok(number)) => number.into(),
            _ => text.into(),
        }
    }

    fn read_toml(&self, item: &Item) -> Result<String, String> {
        match (self.range, item.as_value()) {
            (Range::Integer(..), Some(Value::Integer(number))) => self.check(&number.value().to_string()),
            (Range::Word(_) | Range::Text, Some(Value::String(text))) => self.check(text.value()),
            (Range::Integer(..), _) => Err(format!("`{}` must be a number", self.key)),
            _ => Err(format!("`{}` must be a text in quotes", self.key)),
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The table in this program.
    Default,
    /// The settings file.
    File,
    /// This variable.
    Environment(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("file"),
            Self::Environment(variable) => f.write_str(variable),
        }
    }
}

/// Every setting that has a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<&'static str, (String, Origin)>,
    /// Those of [`MISSING`] whose variables are set.
    missing: Vec<Missing>,
}

impl Settings {
    /// Reads the file, which may be missing, and the environment.
    ///
    /// # Errors
    /// A sentence that names the file and line, or the variable, of what is wrong.
    pub fn load(path: &Path, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let mut values = BTreeMap::new();
        for knob in &KNOBS {
            if let Some(default) = knob.default {
                values.insert(knob.key, (default.to_owned(), Origin::Default));
            }
        }
        for (key, value) in parse(path, &read(path)?)? {
            values.insert(key, (value, Origin::File));
        }
        for knob in &KNOBS {
            let Some(name) = knob.variable else { continue };
            let Some(text) = variable(name).filter(|text| !text.is_empty()) else {
                continue;
            };
            let value = text
                .to_str()
                .ok_or_else(|| format!("`{}` must be text", knob.key))
                .and_then(|text| knob.check(text))
                .map_err(|reason| Failure::usage(format!("{name}: {reason}")))?;
            values.insert(knob.key, (value, Origin::Environment(name)));
        }
        let is_set = |missing: &Missing| variable(missing.variable).is_some_and(|text| !text.is_empty());
        Ok(Self { values, missing: MISSING.into_iter().filter(is_set).collect() })
    }

    /// The value of a setting and where it comes from.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn find(&self, key: &str) -> Result<Option<&(String, Origin)>, Failure> {
        let knob = Knob::named(key).map_err(Failure::usage)?;
        Ok(self.values.get(knob.key))
    }

    /// The value of a setting of the table.
    ///
    /// # Panics
    /// If `key` is not in the table.
    pub fn text(&self, key: &str) -> Option<&str> {
        assert!(Knob::named(key).is_ok(), "no setting {key} in the table");
        self.values.get(key).map(|(value, _)| value.as_str())
    }

    /// The value of a setting of the table that is a number.
    ///
    /// # Panics
    /// If `key` is not in the table.
    pub fn number(&self, key: &str) -> Option<u32> {
        self.text(key).map(|text| text.parse().expect("numbers are checked when they are read"))
    }

    /// Every setting that has a value, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str, &Origin)> {
        self.values.iter().map(|(key, (value, origin))| (*key, value.as_str(), origin))
    }

    /// Refuses to go on where the environment asks for something that there is not, and that would be used now.
    ///
    /// # Errors
    /// When the variable of `missing` is set.
    pub fn refuse(&self, missing: Missing) -> Result<(), Failure> {
        if !self.missing.contains(&missing) {
            return Ok(());
        }
        let Missing { variable, what, remedy, .. } = missing;
        Err(Failure::usage(format!("{variable} is set, but there is no {what} yet: {remedy}")))
    }
}

/// Changes one setting in the file and keeps comments and order; returns the value as written.
///
/// # Errors
/// When there is no such setting, the value is out of range, or the file cannot be written.
pub fn set(path: &Path, key: &str, text: &str) -> Result<String, Failure> {
    let knob = Knob::named(key).map_err(Failure::usage)?;
    let value = knob.check(text).map_err(Failure::usage)?;
    let before = read(path)?;
    parse(path, &before)?;
    let mut document: DocumentMut = before.parse().expect("a text that parsed once parses again");
    let mut new = knob.to_toml(&value);
    if let Some(old) = document.get(knob.key).and_then(Item::as_value) {
        *new.decor_mut() = old.decor().clone();
    }
    document[knob.key] = Item::Value(new);
    write(path, &document.to_string())?;
    Ok(value)
}

/// The settings file in the folder of settings.
///
/// # Errors
/// When no such folder can be named.
pub fn path() -> Result<PathBuf, Failure> {
    Ok(engine::trust::config_dir()?.join("config.toml"))
}

fn read(path: &Path) -> Result<String, Failure> {
    let what = || format!("cannot read {}", path.display());
    match std::fs::read_to_string(path) {
        Ok(text) if text.len() > FILE_BYTES_MAX => {
            Err(Failure::usage(format!("{} is longer than {FILE_BYTES_MAX} bytes", path.display())))
        }
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::io(what(), &error)),
    }
}

/// Reads all settings of the file's text.
fn parse(path: &Path, text: &str) -> Result<Vec<(&'static str, String)>, Failure> {
    let at = |offset: Option<usize>, reason: &str| {
        let line = 1 + text[..offset.unwrap_or(0)].matches('\n').count();
        Failure::usage(format!("{}, line {line}: {reason}", path.display()))
    };
    let document = Document::parse(text).map_err(|error| at(error.span().map(|span| span.start), error.message()))?;
    let mut values = Vec::new();
    for (key, item) in document.iter() {
        let span = document.key(key).and_then(|key| key.span());
        let offset = span.or_else(|| item.span()).map(|span| span.start);
        let knob = Knob::named(key).map_err(|reason| at(offset, &reason))?;
        let value = knob.read_toml(item).map_err(|reason| at(offset, &reason))?;
        values.push((knob.key, value));
    }
    Ok(values)
}

/// Replaces the file as a whole, so that no reader sees half of it.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written =
        std::fs::create_dir_all(folder).and_then(|()| tempfile::NamedTempFile::new_in(folder)).and_then(|mut file| {
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)
        });
    written.map(|_| ()).map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn with(text: &str) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            std::fs::write(folder.path(), text).unwrap();
            folder
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("config.toml")
        }

        fn load(&self, environment: &[(&str, &str)]) -> Result<Settings, Failure> {
            Settings::load(&self.path(), |name| {
                let found = environment.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| value.into())
            })
        }

        #[track_caller]
        fn complains(&self, environment: &[(&str, &str)], part: &str) {
            let failure = self.load(environment).unwrap_err();
            assert_eq!(failure.exit, crate::exit::Exit::Usage);
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }

    #[test]
    fn the_environment_overrides_the_file_and_the_file_the_default() {
        let folder = Folder::with("port = 5000\nlog_level = \"info\"\n");
        let settings = folder.load(&[("WORMHOLE_PORT", "6000")]).unwrap();
        assert_eq!(settings.number("port"), Some(6000));
        assert_eq!(settings.text("log_level"), Some("info"));
        assert_eq!(settings.text("io"), Some("auto"));
        assert_eq!(settings.text("name"), None);
        let (_, origin) = settings.find("port").unwrap().unwrap();
        assert_eq!(*origin, Origin::Environment("WORMHOLE_PORT"));
        let empty = folder.load(&[("WORMHOLE_PORT", "")]).unwrap();
        assert_eq!(empty.number("port"), Some(5000));
    }

    #[test]
    fn mistakes_name_their_line_or_variable() {
        Folder::with("# c\n\nprot = 1\n").complains(&[], "line 3: there is no setting `prot`");
        Folder::with("port = 1\nport = 2\n").complains(&[], "line 2");
        Folder::with("port = \n").complains(&[], "line 1");
        Folder::with("io = \"auto\"\nport = 65536").complains(&[], "line 2: `port` must be");
        Folder::with("port = \"1\"").complains(&[], "must be a number");
        Folder::with("[port]\nx = 1").complains(&[], "line 1");
        Folder::with("cache_dir = \"/c\"").complains(&[], "line 1: there is no disk cache yet");
        Folder::with("\nsignal_server = \"x\"").complains(&[], "line 2: there is no signal server");
        Folder::with("").complains(&[("WORMHOLE_PORT", "0")], "WORMHOLE_PORT: ");
        Folder::with("").complains(&[("WORMHOLE_LOG_LEVEL", "loud")], "one of off, error");
    }

    #[test]
    fn what_there_is_not_yet_is_refused_where_it_would_be_used() {
        let folder = Folder::with("");
        for (missing, other) in [(SIGNAL_SERVER, CACHE_DIR), (CACHE_DIR, SIGNAL_SERVER)] {
            let settings = folder.load(&[(missing.variable, "s")]).unwrap();
            assert!(settings.refuse(missing).unwrap_err().message.contains(missing.variable));
            assert_eq!(settings.refuse(other), Ok(()));
            assert_eq!(folder.load(&[(missing.variable, "")]).unwrap().refuse(missing), Ok(()));
            assert!(set(&folder.path(), missing.key, "/x").is_err());
        }
    }

    #[test]
    fn setting_keeps_comments_and_reads_back() {
        let folder = Folder::with("# ours\nport = 1 # old\n\n# name\nname = \"a\"\n");
        assert_eq!(set(&folder.path(), "port", "5001").unwrap(), "5001");
        assert_eq!(set(&folder.path(), "name", "shots \"b\"").unwrap(), "shots \"b\"");
        set(&folder.path(), "timeout_s", "30").unwrap();
        let text = std::fs::read_to_string(folder.path()).unwrap();
        assert!(text.starts_with("# ours\nport = 5001 # old\n\n# name\nname ="), "{text}");
        let settings = folder.load(&[]).unwrap();
        assert_eq!(settings.text("name"), Some("shots \"b\""));
        assert_eq!(settings.number("timeout_s"), Some(30));
    }

    #[test]
    fn a_bad_change_leaves_the_file_alone() {
        let folder = Folder::with("port = 1\n");
        for (key, value) in [("port", "0"), ("prot", "1"), ("signal_server", "x"), ("io", "")] {
            assert!(set(&folder.path(), key, value).is_err(), "{key}");
        }
        assert_eq!(std::fs::read_to_string(folder.path()).unwrap(), "port = 1\n");
    }

    #[test]
    fn every_default_is_in_range() {
        for knob in KNOBS {
            if let Some(default) = knob.default {
                assert_eq!(knob.check(default).as_deref(), Ok(default), "{}", knob.key);
            }
        }
        assert_eq!(KNOBS[4].default, Some(signal::DEFAULT_PORT.to_string().as_str()));
    }

    #[test]
    fn a_missing_file_is_all_defaults_and_is_made_by_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/config.toml");
        assert!(Settings::load(&path, |_| None).is_ok());
        set(&path, "port", "7").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "port = 7\n");
    }
}
