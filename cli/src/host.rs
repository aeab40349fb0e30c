//! `wormhole host`: serves a folder until a signal, and shows how to join.

use std::net::{Ipv4Addr, SocketAddr};

use engine::{HostOptions, Invitation, ServiceEvent};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use signal::JoinCode;

use crate::args::HostArguments;
use crate::exit::{Exit, Failure};
use crate::output::{self, Events, Output};
use crate::quote;
use crate::remote::Context;
use crate::secret::hidden::Hidden;
use crate::secret::{self, Sources};
use crate::settings;

/// Runs `host`.
///
/// # Errors
/// What keeps the folder from being served, or ended the service.
pub fn run(context: &Context<'_>, arguments: HostArguments) -> Result<Exit, Failure> {
    if arguments.allow_write {
        return Err(Failure::usage("--allow-write: not yet: shares are read-only"));
    }
    if arguments.signal.signal.is_some() {
        return Err(Failure::usage(
            "--signal: not yet: there is no signal server; leave it out, and others join by link or address",
        ));
    }
    if !arguments.signal.no_signal {
        context.settings.refuse(settings::SIGNAL_SERVER)?;
    }
    let options = HostOptions {
        bind: bind(context, arguments.bind),
        name: arguments.name.or_else(|| context.settings.text("name").map(str::to_owned)),
        code: chosen_code(context, arguments.code.code, arguments.code.code_file)?,
        path: arguments.path,
        shards: arguments.shards,
        io: context.io(arguments.io).into(),
        state_dir: engine::trust::state_dir()?,
        runtime_dir: engine::trust::runtime_dir()?,
    };
    let (handle, events) = engine::start_host(options)?;
    let shutdown = handle.shutdown_handle();
    context.interrupts.arm(move || shutdown.shutdown());
    let mut printed = Events::new(context.output);
    for event in &events {
        print_event(context.output, &event);
        printed.print(&output::event_value(&event));
        if matches!(event, ServiceEvent::Stopped { .. }) {
            break;
        }
    }
    handle.wait()?;
    Ok(Exit::Ok)
}

/// Flag over setting; all interfaces otherwise.
fn bind(context: &Context<'_>, flag: Option<SocketAddr>) -> SocketAddr {
    flag.unwrap_or_else(|| {
        let port = context.settings.number("port");
        let port = port.and_then(|port| u16::try_from(port).ok());
        let port = port.expect("the setting has a default, and its range is that of ports");
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
    })
}

/// The code that a person chose; `None` to have one drawn.
fn chosen_code(
    context: &Context<'_>,
    argument: Option<Hidden>,
    file: Option<std::path::PathBuf>,
) -> Result<Option<JoinCode>, Failure> {
    let argument = argument
        .map(|text| {
            if let Some(warning) = secret::argument_warning() {
                context.output.say(warning);
            }
            let text = text.text().ok_or_else(|| Failure::usage("--code is not text"))?;
            JoinCode::chosen(text).map_err(|error| Failure::usage(format!("--code: {error}")))
        })
        .transpose()?;
    Sources { argument, file: file.as_deref(), environment: context.environment.value() }.first(JoinCode::chosen)
}

fn print_event(output: &Output, event: &ServiceEvent) {
    let text = quote::text;
    match event {
        ServiceEvent::HostStarted { path, address, shards, io, name } => output.say(&format!(
            "Serving {} as {} on {address} ({shards} shards, {io}); Ctrl-C ends it",
            quote::name(path.as_os_str().as_encoded_bytes()),
            output.bold(&text(name)),
            io = text(io),
        )),
        ServiceEvent::WaitingForPeer(Invitation { code, link }) => {
            output.tell(&format!("Join code: {}", output.bold(&text(code))));
            output.tell(&format!("Link:      {}", text(link)));
            if output.is_watched() {
                if let Some(picture) = qr_picture(link) {
                    output.say(&picture);
                }
                output.say(&format!("On the other machine: wormhole mount '{}' MOUNTPOINT", text(link)));
            }
        }
        ServiceEvent::PeerConnected { name, address, enrolled, .. } => output.say(&format!(
            "{} came in from {address}{}",
            output.bold(&text(name)),
            if *enrolled { " for the first time" } else { "" }
        )),
        ServiceEvent::PeerDisconnected { peer, reason } => {
            output.say(&format!("{} left: {}", text(peer), text(reason)));
        }
        ServiceEvent::PeerRefused { address, reason } => {
            output.say(&format!("Refused {address}: {}", text(reason)));
        }
        ServiceEvent::Warning { message } | ServiceEvent::Error { message } => {
            output.say(&text(message));
        }
        ServiceEvent::Stopped { reason } => output.say(&format!("Stopped: {}", text(reason))),
        ServiceEvent::MountReady { .. } | ServiceEvent::HostLost { .. } | ServiceEvent::HostBack { .. } => {}
    }
}

/// The link as a QR code of half blocks, light on dark; `None` if it is too long for one.
fn qr_picture(link: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(link, EcLevel::L).ok()?;
    Some(
        code.render::<Dense1x2>()
            // A terminal's foreground is usually the light colour.
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark)
            .build(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_becomes_a_square_of_half_blocks() {
        let picture = qr_picture("wormhole://join/1-a-b-c?host=10.0.0.1:4433").unwrap();
        let widths: Vec<usize> = picture.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|&width| width == widths[0]));
        assert_eq!(widths.len(), widths[0].div_ceil(2));
        assert!(picture.chars().all(|c| " \u{2580}\u{2584}\u{2588}\n".contains(c)));
        assert_eq!(qr_picture(&"x".repeat(4000)), None);
    }
}
