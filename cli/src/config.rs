//! `wormhole config`: shows and changes settings.

use serde_json::json;

use crate::args::ConfigCommand;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::quote;
use crate::settings::{self, Settings};

/// Runs `config`.
///
/// # Errors
/// What reading or writing the settings reports; exit 3 where a setting has no value.
pub fn run(output: &Output, command: &ConfigCommand) -> Result<Exit, Failure> {
    let path = settings::path()?;
    let load = || Settings::load(&path, |name| std::env::var_os(name));
    match command {
        // These two must work while the file does not: they are how it is put right.
        ConfigCommand::Path => {
            output.event("ConfigPath", json!({"path": path.to_string_lossy()}))?;
            output.line(&quote::name(path.as_os_str().as_encoded_bytes()))?;
        }
        ConfigCommand::Set { key, value } => {
            let value = settings::set(&path, key, value)?;
            output.event("Setting", json!({"key": key, "value": value, "origin": "file"}))?;
            output.say(&format!("{key} = {}", quote::text(&value)));
        }
        ConfigCommand::Show => {
            let settings = load()?;
            for (key, value, origin) in settings.iter() {
                show(output, key, value, &origin.to_string())?;
            }
        }
        ConfigCommand::Get { key } => {
            let settings = load()?;
            let Some((value, origin)) = settings.find(key)? else {
                return Err(Failure::new(Exit::NotFound, format!("{key} is not set")));
            };
            output.event("Setting", json!({"key": key, "value": value, "origin": origin.to_string()}))?;
            output.line(value)?;
        }
    }
    Ok(Exit::Ok)
}

fn show(output: &Output, key: &str, value: &str, origin: &str) -> Result<(), Failure> {
    output.event("Setting", json!({"key": key, "value": value, "origin": origin}))?;
    output.line(&format!("{key} = {}  # {origin}", quote::text(value)))
}
