//! A real browser without a window, driven over the DevTools protocol.
//!
//! Chromium speaks it on two pipes (`--remote-debugging-pipe`): commands on its descriptor 3, answers and events on 4,
//! each message one JSON object and a zero byte. No port is opened and no page but ours is visited. A page's complaints
//! are collected from three sources: console calls, uncaught exceptions, and the browser's own log.

use std::io::{BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use serde_json::{Value, json};

/// Names the browser goes by, Debian's first.
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// How long one answer may take: a first start on a busy machine takes about 10 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// How long the browser may take to end when asked to.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Messages read ahead of the test; a page of ours causes about twenty.
const MESSAGES_MAX: usize = 4096;

/// Rounds of the page's own messages: after so many empty ones nothing it has logged is still on its way.
const SETTLING_TURNS: usize = 3;

/// A window's size, and how it is.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// For messages and file names.
    pub name: &'static str,
    /// CSS pixels.
    pub width: u32,
    /// CSS pixels.
    pub height: u32,
    /// Whether it is a phone.
    pub is_mobile: bool,
    /// What `prefers-color-scheme` says.
    pub is_dark: bool,
}

/// The browser, with one page open.
pub struct Browser {
    child: Child,
    commands: Option<ChildStdin>,
    messages: Receiver<Value>,
    session: Option<String>,
    last_id: u64,
    /// Errors and warnings of the page since it was opened.
    complaints: Vec<String>,
    /// Addresses the page asked for since it was opened.
    requests: Vec<String>,
    /// Whether the page has loaded.
    is_loaded: bool,
    // Deleted last, after the browser ended.
    _profile: tempfile::TempDir,
}

/// Whether a program answers: Ubuntu's `chromium-browser` may be a script that only asks for a snap.
fn runs(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Browser {
    /// Starts the browser with an empty page.
    ///
    /// # Errors
    /// If there is no browser, with the line that installs it, or it does not answer.
    pub fn start() -> anyhow::Result<Self> {
        let program =
            PROGRAMS.into_iter().filter_map(perf::peers::find_program).find(|program| runs(program)).context(
                "no browser to open the page in; run as root: apt-get install --yes --no-install-recommends chromium",
            )?;
        let profile = tempfile::tempdir()?;
        // The shell moves the pipes to the descriptors the browser reads and writes.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#])
            .arg(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--no-default-browser-check",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                "--force-color-profile=srgb",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a shell")?;
        let commands = child.stdin.take();
        let answers = child.stdout.take().context("the pipe was asked for")?;
        let (sender, messages) = sync_channel(MESSAGES_MAX);
        std::thread::spawn(move || read_messages(BufReader::new(answers), &sender));
        let mut browser = Self {
            child,
            commands,
            messages,
            session: None,
            last_id: 0,
            complaints: Vec::new(),
            requests: Vec::new(),
            is_loaded: false,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach)?;
        browser.session = Some(attached["sessionId"].as_str().context("no session")?.to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(browser)
    }

    /// Opens a file in a window of that size, and waits until it is loaded and drawn.
    ///
    /// # Errors
    /// If the browser does not do it.
    pub fn open(&mut self, file: &Path, view: View) -> anyhow::Result<()> {
        let scheme = if view.is_dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media)?;
        let metrics = json!({
            "width": view.width, "height": view.height, "deviceScaleFactor": 1, "mobile": view.is_mobile,
        });
        self.call("Emulation.setDeviceMetricsOverride", metrics)?;
        self.complaints.clear();
        self.requests.clear();
        self.is_loaded = false;
        let navigated = self.call("Page.navigate", json!({"url": format!("file://{}", file.display())}))?;
        ensure!(navigated.get("errorText").is_none(), "cannot open {}: {navigated}", file.display());
        let deadline = Instant::now() + ANSWER_LIMIT;
        while !self.is_loaded {
            let message = self.next(deadline)?;
            self.note(&message);
        }
        self.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(() => drawn(true))))")?;
        Ok(())
    }

    /// The value of an expression in the page; a promise is waited for.
    ///
    /// # Errors
    /// If it throws.
    pub fn evaluate(&mut self, expression: &str) -> anyhow::Result<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", parameters)?;
        ensure!(result.get("exceptionDetails").is_none(), "the check itself threw: {result}");
        Ok(result["result"]["value"].clone())
    }

    /// The whole page, not only what the window shows, as a PNG.
    ///
    /// # Errors
    /// If the browser does not draw it.
    pub fn screenshot(&mut self) -> anyhow::Result<Vec<u8>> {
        let parameters = json!({"format": "png", "captureBeyondViewport": true});
        let metrics = self.call("Page.getLayoutMetrics", json!({}))?;
        let mut parameters = parameters;
        let size = &metrics["cssContentSize"];
        parameters["clip"] = json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
        let result = self.call("Page.captureScreenshot", parameters)?;
        let data = result["data"].as_str().context("no picture")?;
        Ok(base64::engine::general_purpose::STANDARD.decode(data)?)
    }

    /// What went wrong on the page since it was opened: errors, warnings and uncaught exceptions.
    ///
    /// # Errors
    /// If the browser does not answer.
    pub fn complaints(&mut self) -> anyhow::Result<Vec<String>> {
        // Each answer comes after the events before it; a turn of the page's own loop lets late ones be reported.
        for _ in 0..SETTLING_TURNS {
            self.evaluate("new Promise(turned => { const c = new MessageChannel(); c.port1.onmessage = () => turned(0); c.port2.postMessage(0); })")?;
        }
        Ok(self.complaints.clone())
    }

    /// Every address the page asked for since it was opened, itself among them.
    pub fn requests(&self) -> &[String] {
        &self.requests
    }

    fn call(&mut self, method: &str, parameters: Value) -> anyhow::Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        let mut command = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        let commands = self.commands.as_mut().context("the browser was ended")?;
        commands.write_all(&bytes).with_context(|| format!("{method}: the browser is gone"))?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let message = self.next(deadline).with_context(|| method.to_owned())?;
            if message["id"] == id {
                ensure!(message.get("error").is_none(), "{method}: {}", message["error"]);
                return Ok(message["result"].clone());
            }
            self.note(&message);
        }
    }

    fn next(&self, deadline: Instant) -> anyhow::Result<Value> {
        match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(message) => Ok(message),
            Err(RecvTimeoutError::Timeout) => bail!("no answer within {ANSWER_LIMIT:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the browser ended"),
        }
    }

    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str() {
            Some("Page.loadEventFired") => self.is_loaded = true,
            Some("Runtime.exceptionThrown") => {
                let details = &parameters["exceptionDetails"];
                let text = details["exception"]["description"].as_str().or(details["text"].as_str());
                self.complaints.push(format!("uncaught: {}", text.unwrap_or("?")));
            }
            Some("Runtime.consoleAPICalled") => {
                if let Some(kind @ ("error" | "warning" | "assert")) = parameters["type"].as_str() {
                    self.complaints.push(format!("console {kind}: {}", parameters["args"]));
                }
            }
            Some("Log.entryAdded") => {
                let entry = &parameters["entry"];
                if let Some(level @ ("error" | "warning")) = entry["level"].as_str() {
                    self.complaints.push(format!("log {level}: {}", entry["text"]));
                }
            }
            Some("Network.requestWillBeSent") => {
                self.requests.push(parameters["request"]["url"].as_str().unwrap_or("?").to_owned());
            }
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to, it ends its helpers and lets go of its profile; the signal is for one that hangs.
        self.session = None;
        let _ = self.call("Browser.close", json!({}));
        self.commands = None;
        let deadline = Instant::now() + END_LIMIT;
        while self.next(deadline).is_ok() {}
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_messages(mut answers: impl std::io::BufRead, sender: &SyncSender<Value>) {
    let mut bytes = Vec::new();
    while answers.read_until(0, &mut bytes).is_ok_and(|count| count > 0) {
        bytes.pop();
        let Ok(message) = serde_json::from_slice(&bytes) else {
            return;
        };
        if sender.send(message).is_err() {
            return;
        }
        bytes.clear();
    }
}
