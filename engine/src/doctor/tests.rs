//! Invented machines.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A folder that stands for the root of a machine.
struct Machine {
    root: tempfile::TempDir,
    uid: u32,
    uring: Result<String, String>,
}

impl Machine {
    /// A machine on which all is well for an ordinary user.
    fn well() -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap(), uid: 1000, uring: Ok("all features".into()) };
        for (path, text) in [
            ("proc/sys/kernel/osrelease", "6.18.1\n"),
            ("proc/sys/kernel/io_uring_disabled", "0\n"),
            ("proc/sys/fs/fuse/max_pages_limit", "256\n"),
            ("proc/sys/net/core/rmem_max", "8388608\n"),
            ("proc/sys/net/core/wmem_max", "7340032\n"),
            ("proc/net/udp", "sl local_address\n0: 00000000:1152 0:0 07\n"),
            ("sys/module/fuse/parameters/enable_uring", "Y\n"),
            ("sys/class/net/eth0/mtu", "1500\n"),
            ("sys/class/net/eth0/operstate", "up\n"),
            ("sys/class/net/eth1/mtu", "68\n"),
            ("sys/class/net/eth1/operstate", "down\n"),
            ("etc/fuse.conf", "# user_allow_other\n  user_allow_other # yes\n"),
            ("proc/self/limits", "Max open files 1024 4096 files\nMax locked memory 8388608 8388608 bytes\n"),
            ("usr/bin/fusermount3", ""),
        ] {
            machine.write(path, text);
        }
        machine.set_mode("usr/bin/fusermount3", 0o4755);
        std::fs::create_dir(machine.root.path().join("dev")).unwrap();
        // Any character device will do; nothing here opens it.
        symlink("/dev/null", machine.root.path().join("dev/fuse")).unwrap();
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.root.path().join(path)).unwrap();
    }

    fn set_mode(&self, path: &str, mode: u32) {
        let path = self.root.path().join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What is not well: name, status, remedy.
    fn complaints(&self) -> Vec<(&'static str, Status, String)> {
        self.findings()
            .into_iter()
            .filter(|finding| finding.status != Status::Ok)
            .map(|finding| (finding.name, finding.status, finding.remedy.unwrap_or_default()))
            .collect()
    }

    fn findings(&self) -> Vec<Finding> {
        examine(&Surroundings {
            root: self.root.path(),
            uid: self.uid,
            port: 4433,
            program_dirs: &["/usr/bin".into()],
            probe_uring: &|| self.uring.clone(),
        })
    }

    /// The one complaint, its remedy checked for a part.
    #[track_caller]
    fn complains(&self, name: &str, status: Status, remedy: &str) {
        let complaints = self.complaints();
        let [found] = complaints.as_slice() else {
            panic!("not one complaint: {complaints:?}");
        };
        assert_eq!((found.0, found.1), (name, status));
        assert!(found.2.contains(remedy), "{}", found.2);
    }
}

#[test]
fn a_well_machine_has_no_complaints() {
    assert_eq!(Machine::well().complaints(), []);
}

#[test]
fn each_fault_is_named_with_its_remedy() {
    for (path, text, name, remedy) in [
        ("proc/sys/kernel/osrelease", "5.15.0", "kernel", "6.1"),
        ("proc/sys/fs/fuse/max_pages_limit", "255", "FUSE request size", "max_pages_limit=256"),
        ("proc/sys/net/core/rmem_max", "7340031", "receive buffer", "rmem_max=7340032"),
        ("proc/sys/net/core/wmem_max", "212992", "send buffer", "wmem_max=7340032"),
        ("proc/net/udp6", "0: 0:1151 0:0", "port", "--bind"),
        ("etc/fuse.conf", "#user_allow_other", "mount --allow-other", "fuse.conf"),
        ("proc/self/limits", "Max open files 1024 4095 files", "open files", "nofile"),
        ("proc/self/limits", "Max locked memory 65536 65536 bytes", "locked memory", "memlock"),
        ("sys/class/net/eth0/operstate", "down", "interface", "up"),
    ] {
        let machine = Machine::well();
        machine.write(path, text);
        machine.complains(name, Status::Warn, remedy);
    }
    let machine = Machine::well();
    machine.write("sys/class/net/eth0/mtu", "1279");
    machine.complains("interface", Status::Fail, "mtu 1500");
}

#[test]
fn fuse_over_io_uring_is_explained_and_never_a_complaint() {
    let machine = Machine::well();
    let path = "sys/module/fuse/parameters/enable_uring";
    let check = |part: &str| {
        let findings = machine.findings();
        let found = findings.iter().find(|finding| finding.name == "FUSE over io_uring").unwrap();
        assert_eq!(found.status, Status::Ok);
        assert!(found.detail.contains(part), "{}", found.detail);
    };
    check("--fuse uring uses it");
    machine.write(path, "N\n");
    check("echo 1 | sudo tee /sys/module/fuse/parameters/enable_uring");
    machine.remove(path);
    check("Linux 6.14");
}

#[test]
fn a_mount_needs_the_device_and_the_helper() {
    let machine = Machine::well();
    machine.remove("dev/fuse");
    machine.complains("FUSE device", Status::Fail, "apt-get install fuse3");
    machine.write("dev/fuse", "");
    machine.complains("FUSE device", Status::Fail, "mknod");

    let mut machine = Machine::well();
    machine.set_mode("usr/bin/fusermount3", 0o755);
    machine.complains("fusermount3", Status::Fail, "chmod u+s");
    machine.remove("usr/bin/fusermount3");
    machine.complains("fusermount3", Status::Fail, "apt-get install fuse3");
    machine.uid = 0;
    machine.complains("fusermount3", Status::Warn, "apt-get install fuse3");
}

#[test]
fn a_refused_ring_is_explained_by_the_sysctl() {
    let mut machine = Machine::well();
    machine.uring = Err("EPERM".into());
    machine.complains("io_uring", Status::Warn, "seccomp");
    for disabled in ["1", "2"] {
        machine.write("proc/sys/kernel/io_uring_disabled", disabled);
        machine.complains("io_uring", Status::Warn, "io_uring_disabled=0");
    }
}

#[test]
fn an_empty_root_is_no_panic() {
    let root = tempfile::tempdir().unwrap();
    let findings = examine(&Surroundings {
        root: root.path(),
        uid: 1000,
        port: 4433,
        program_dirs: &[],
        probe_uring: &|| Err("no".into()),
    });
    assert!(findings.iter().any(|finding| finding.status == Status::Fail));
}
