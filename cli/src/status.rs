//! `wormhole status`: the running hosts and mounts of this user.

use engine::status::{Report, query_all};
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::quote;

/// Runs `status`.
///
/// # Errors
/// When the folder of control sockets cannot be listed.
pub fn run(output: &Output) -> Result<Exit, Failure> {
    let runtime_dir = engine::trust::runtime_dir()?;
    let reports = query_all(&runtime_dir).map_err(|error| failure(&error))?;
    if reports.is_empty() {
        output.say("Nothing is hosted or mounted");
    }
    for report in &reports {
        output.event("Service", report)?;
        output.line(&lines(report))?;
    }
    Ok(Exit::Ok)
}

/// A control socket's error and its cause in one sentence.
pub fn failure(error: &engine::status::StatusError) -> Failure {
    let cause = std::error::Error::source(error).map_or(String::new(), |e| format!(": {e}"));
    Failure::failed(format!("{error}{cause}"))
}

/// A heading and one indented line for each thing the service says of itself.
fn lines(report: &Report) -> String {
    let mut text = format!("{} (process {})", report.kind, report.pid);
    for (key, value) in report.report.as_object().into_iter().flatten() {
        text.push_str(&format!("\n  {}: {}", quote::text(key), shown(value)));
    }
    text
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote::text(text),
        Value::Array(values) if values.is_empty() => "none".into(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields.values().map(shown).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use engine::status::ServiceKind;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_shown_whatever_it_holds() {
        let report = Report {
            kind: ServiceKind::Host,
            pid: 7,
            report: json!({"a": "x\u{1b}", "b": [], "c": [{"name": "n", "n": 1}, 2], "d": true}),
        };
        assert_eq!(lines(&report), "host (process 7)\n  a: x\\u{1b}\n  b: none\n  c: 1 n, 2\n  d: true");
    }
}
