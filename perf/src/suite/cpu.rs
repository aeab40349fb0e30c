//! What it costs: CPU time per byte at both ends, and what the programs use and hold while nobody does anything.
//!
//! The first part is the other suites' own rows; alone, this suite runs what it needs of them. The second starts a
//! host and a mount, leaves them alone, and reads what the kernel counted for them.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::mounter::{self, Mounter, Ours, STEP_LIMIT};
use super::{Contender, Outcome, Plan, Scale, alternate, mount, row, transport};
use crate::fixture::{self, Fixture};
use crate::lab::Lab;
use crate::memory::{self, Activity};
use crate::mounts;
use crate::process::Process;
use crate::report::{OURS, Row, Unit};

/// The link measured.
pub const MTU: u32 = 1500;

/// How long the programs are watched doing nothing.
const IDLE: Duration = Duration::from_secs(10);

/// The same in a quick run.
const IDLE_QUICK: Duration = Duration::from_secs(3);

/// Runs transfers on one link and keeps what they say about CPU time.
///
/// # Errors
/// As the suites it runs.
pub fn transfers(plan: Plan, fixture: &Fixture, note: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    rows.extend(transport::goodput(MTU, plan, fixture, note)?);
    rows.extend(mount::sequential(MTU, plan, fixture, note)?);
    rows.extend(mount::copy(plan, fixture, note)?);
    rows.retain(|row| row.unit == Unit::SecondsPerGigabyte);
    Ok(rows)
}

/// CPU time, wake-ups and memory of a host and a mount that nobody uses, and memory after a whole read.
///
/// # Errors
/// If no lab can be made.
pub fn idle(plan: Plan, fixture: &Fixture, note: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    note("cpu.idle");
    let lab = Lab::up(MTU)?;
    let watched = match plan.scale {
        Scale::Full => IDLE,
        Scale::Quick => IDLE_QUICK,
    };
    let contender = Ours::start(&lab, &fixture.directory()).and_then(|ours| {
        let mount_point = lab.mount_point("mnt-idle")?;
        Ok(Box::new(Idle { lab: &lab, fixture, ours, mount_point, watched }) as Box<dyn Contender<IdleRun>>)
    });
    let series = alternate(vec![(OURS.to_owned(), contender)], plan, note);
    let row = |name: &str, unit: Unit, quantity: &dyn Fn(&IdleRun) -> f64| {
        row(format!("cpu.{name}"), unit, &series, &[], quantity)
    };
    let (percent, wakeups, memory) = (Unit::PercentOfCore, Unit::WakeupsPerSecond, Unit::Mebibytes);
    Ok(vec![
        row("idle_host_alone", percent, &|run| run.host_alone.cpu_percent),
        row("idle_host_alone_wakeups", wakeups, &|run| run.host_alone.wakeups_per_second),
        row("idle_host", percent, &|run| run.host.cpu_percent),
        row("idle_host_wakeups", wakeups, &|run| run.host.wakeups_per_second),
        row("idle_mount", percent, &|run| run.mount.cpu_percent),
        row("idle_mount_wakeups", wakeups, &|run| run.mount.wakeups_per_second),
        row("memory_host", memory, &|run| run.host_mebibytes),
        row("memory_mount", memory, &|run| run.mount_mebibytes),
        row("memory_host_after_read", memory, &|run| run.host_mebibytes_after),
        row("memory_mount_after_read", memory, &|run| run.mount_mebibytes_after),
    ])
}

/// What a program used while it had nothing to do.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rest {
    cpu_percent: f64,
    wakeups_per_second: f64,
}

impl Rest {
    // Far below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    fn of(activity: Activity, elapsed: Duration) -> Self {
        Self {
            cpu_percent: 100.0 * activity.cpu.as_secs_f64() / elapsed.as_secs_f64(),
            wakeups_per_second: activity.waits as f64 / elapsed.as_secs_f64(),
        }
    }
}

/// One round.
#[derive(Clone, Copy, Debug)]
struct IdleRun {
    /// With nobody connected.
    host_alone: Rest,
    /// With a mount that nobody uses.
    host: Rest,
    mount: Rest,
    host_mebibytes: f64,
    mount_mebibytes: f64,
    host_mebibytes_after: f64,
    mount_mebibytes_after: f64,
}

impl Outcome for IdleRun {
    fn check(&self, _: Plan) -> anyhow::Result<()> {
        ensure!(self.host_mebibytes > 0.0 && self.mount_mebibytes > 0.0, "a program without memory");
        Ok(())
    }
}

struct Idle<'l> {
    lab: &'l Lab,
    fixture: &'l Fixture,
    ours: Ours<'l>,
    mount_point: PathBuf,
    watched: Duration,
}

impl Idle<'_> {
    /// What the programs use in [`Idle::watched`], none of which may end.
    fn watch<const N: usize>(&self, programs: [&Process; N]) -> anyhow::Result<[Rest; N]> {
        let before = programs.map(|program| Activity::of(program.id()));
        let started = Instant::now();
        sleep(self.watched);
        let elapsed = started.elapsed();
        let after = programs.map(|program| Activity::of(program.id()));
        for program in programs {
            ensure!(!program.has_ended(), "{} ended: {}", program.label(), program.last_words());
        }
        let rest = |index: usize| Rest::of(after[index].since(before[index]), elapsed);
        Ok(std::array::from_fn(rest))
    }
}

impl Contender<IdleRun> for Idle<'_> {
    /// A mount and a whole read, so that what is made once is made.
    fn verify(&mut self) -> anyhow::Result<()> {
        mounter::with_cold_mount(self.lab, &self.ours, &self.mount_point, |_| {
            mount::check_hash(self.lab, &self.mount_point.join(fixture::NAME), self.fixture.hash())
        })
    }

    fn run(&mut self) -> anyhow::Result<IdleRun> {
        let memory = |program: &Process| memory::own_mebibytes(program.id()).context("no account of memory");
        let host_program = &self.ours.host.process;
        let [host_alone] = self.watch([host_program])?;
        let mut program = self.ours.mount(self.lab, &self.mount_point)?;
        let [host, mounted] = self.watch([host_program, &program])?;
        let (host_mebibytes, mount_mebibytes) = (memory(host_program)?, memory(&program)?);
        let (bytes, _) = mount::read(self.lab, &self.mount_point.join(fixture::NAME))?;
        ensure!(bytes == self.fixture.bytes(), "{bytes} of {} bytes arrived", self.fixture.bytes());
        let (host_mebibytes_after, mount_mebibytes_after) = (memory(host_program)?, memory(&program)?);
        mounts::unmount(&self.mount_point, STEP_LIMIT)?;
        program.wait(STEP_LIMIT).context("after the unmount")?;
        Ok(IdleRun {
            host_alone,
            host,
            mount: mounted,
            host_mebibytes,
            mount_mebibytes,
            host_mebibytes_after,
            mount_mebibytes_after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_is_by_the_second_and_by_the_core() {
        let activity = Activity { cpu: Duration::from_millis(50), waits: 20 };
        let rest = Rest::of(activity, Duration::from_secs(5));
        assert!((rest.cpu_percent - 1.0).abs() < 1e-9 && (rest.wakeups_per_second - 4.0).abs() < 1e-9, "{rest:?}");
    }
}
