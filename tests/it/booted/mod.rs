//! The package under a real systemd, which is booted for it: installed, used, upgraded, removed.
//!
//! Where this machine cannot boot one, one line says so and why; with `CI_REQUIRE_SYSTEMD=1` that is a failure.
//! `TARGET_NOTIFYD_ROOT=FOLDER` boots the system in that folder instead of this machine's own, such as a tree that
//! `debootstrap --include=systemd,procps,ca-certificates trixie FOLDER` made. `TARGET_NOTIFYD_PARTS=1` tells how long each
//! part takes. It is one test, since a boot is what costs most.

mod life;
mod load;
mod machine;
mod package;
mod trouble;

use std::fs;
use std::io::Write;

use target_notifyd::sandbox::Sandbox;
use tempfile::TempDir;

use self::load::Producer;
use self::machine::{Machine, text, until};
use self::package::VERSIONS;

pub(crate) const SERVICE: &str = "target-notifyd.service";
pub(crate) const SOCKET: &str = "target-notifyd.socket";
/// The producers' socket.
pub(crate) const NOTIFY: &str = "/run/target-notifyd.sock";
const CONFIG: &str = "/etc/target-notifyd/config.toml";
const STATE: &str = "/var/lib/target-notifyd";

/// What every part of the test works with.
pub(crate) struct Site {
    pub(crate) machine: Machine,
    pub(crate) sandbox: Sandbox,
    packages: TempDir,
}

impl Site {
    /// The producers' socket, from outside.
    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.machine.path(NOTIFY)
    }

    /// A configuration that delivers to the sandbox, with `more` at its end.
    pub(crate) fn configuration(&self, more: &str) -> String {
        format!(
            "[target]\nclient = \"acme\"\norganization_id = \"0DD9@AdobeOrg\"\nendpoint = \"http://{}\"\ntimeout = \"2m\"\n\
             [queue]\nmin_free = \"1MiB\"\nreserve = \"0B\"\n[batch]\nlinger = \"20ms\"\n\
             [retry]\ninitial = \"50ms\"\nmax = \"500ms\"\n[delivery]\nbreaker_open = \"50ms\"\nbreaker_max = \"500ms\"\n{more}",
            self.sandbox.address()
        )
    }

    pub(crate) fn configure(&self, more: &str) {
        self.machine.write(CONFIG, self.configuration(more));
    }

    /// Settings of the service beside the package's, in force from the next start; empty: none any more.
    pub(crate) fn drop_in(&self, settings: &str) {
        let path = format!("/etc/systemd/system/{SERVICE}.d/test.conf");
        self.machine.write(&path, format!("[Service]\n{settings}\n"));
        self.machine.systemctl(&["daemon-reload"]);
    }

    /// The process of the daemon.
    pub(crate) fn process(&self) -> String {
        self.machine.property(SERVICE, "MainPID")
    }

    fn install(&self, version: &str) {
        let name = format!("/tmp/{version}.deb");
        let package = fs::read(self.packages.path().join(format!("target-notifyd_{version}.deb")));
        self.machine.write(&name, package.expect("the package was made"));
        self.machine.ok("dpkg", &["--install", &name]);
    }

    /// Waits until the sandbox has taken the event `id`.
    pub(crate) fn taken(&self, id: &str) {
        until("the event is delivered", || {
            self.sandbox.ledger().records().any(|one| one.id == id).then_some(())
        });
    }
}

/// Says past the capture of the tests why this one does nothing.
fn skip(reason: &str) {
    assert!(std::env::var_os("CI_REQUIRE_SYSTEMD").is_none_or(|value| value != "1"), "no systemd: {reason}");
    let _closed = writeln!(std::io::stderr(), "skipped: the package under a booted systemd: {reason}");
}

#[test]
fn the_package_under_systemd() {
    if let Some(reason) = machine::missing().or_else(package::missing) {
        return skip(&reason);
    }
    let packages = TempDir::new().expect("a folder");
    let making = packages.path().to_owned();
    let making = std::thread::spawn(move || package::make(&making));
    let machine = match Machine::boot() {
        Ok(machine) => machine,
        Err(reason) => return skip(&reason),
    };
    making.join().expect("the packages are made");
    let (runtime, sandbox) = machine.sandbox();
    let site = Site { machine, sandbox, packages };
    for (name, part) in PARTS {
        let began = std::time::Instant::now();
        part(&site);
        if std::env::var_os("TARGET_NOTIFYD_PARTS").is_some() {
            let _closed = writeln!(std::io::stderr(), "{:5.1} s {name}", began.elapsed().as_secs_f64());
        }
    }
    runtime.block_on(site.sandbox.stop());
}

type Part = fn(&Site);

/// What is shown, in this order: each goes on from where the one before ended.
const PARTS: [(&str, Part); 18] = [
    ("install", installed),
    ("activation", life::the_first_producer_starts_the_service),
    ("owners", life::owners_and_modes_stay_over_a_stop_and_a_start),
    ("kill", trouble::a_killed_daemon_comes_back_and_nothing_is_lost),
    ("watchdog", trouble::a_daemon_that_stands_still_is_restarted),
    ("opening", life::a_start_may_take_as_long_as_the_queue_takes_to_open),
    ("drain", life::a_stop_waits_for_requests_under_way),
    ("restarts", life::restarts_under_load_show_no_producer_an_error),
    ("reload", life::a_reload_takes_a_good_file_and_refuses_a_bad_one),
    ("credentials", life::the_property_token_comes_as_a_credential),
    ("elsewhere", life::a_queue_elsewhere_is_named_to_the_unit),
    ("newer", life::what_is_for_newer_versions_keeps_no_older_one_from_serving),
    ("broken", trouble::a_producer_waits_through_a_broken_configuration),
    ("instance", life::an_instance_stands_beside),
    ("journal", trouble::the_journal_can_be_searched),
    ("no journal", trouble::without_a_journal_the_daemon_goes_on),
    ("upgrade", upgraded),
    ("removal", removed),
];

fn installed(site: &Site) {
    let machine = &site.machine;
    site.install(VERSIONS[0]);
    assert_eq!(machine.property(SOCKET, "SubState"), "listening");
    assert_eq!(
        machine.property(SERVICE, "SubState"),
        "dead",
        "nobody came yet, and no account is configured"
    );
    assert_eq!(machine.systemctl(&["is-enabled", SERVICE, SOCKET]), "disabled\nenabled\n");
    let units = [SERVICE, SOCKET, "target-notifyd@.service", "target-notifyd@.socket"];
    let units = units.map(|unit| format!("/usr/lib/systemd/system/{unit}"));
    let verify = [&["verify"], units.each_ref().map(String::as_str).as_slice()].concat();
    let said = machine.run("systemd-analyze", &verify);
    assert!(
        said.status.success() && said.stdout.is_empty() && said.stderr.is_empty(),
        "{}",
        text(&said.stderr)
    );
    for unit in [SERVICE, "target-notifyd@shop.service"] {
        // Twelve tenths are the most.
        let said = machine.run("systemd-analyze", &["security", "--no-pager", "--threshold=12", unit]);
        assert!(said.status.success(), "{}{}", text(&said.stdout), text(&said.stderr));
    }
    assert!(machine.path("/usr/share/man/man5/target-notifyd.toml.5.gz").exists());
}

fn upgraded(site: &Site) {
    let (machine, process) = (&site.machine, site.process());
    let (socket, inode) = (machine.property(SOCKET, "InvocationID"), machine.stat("%i", NOTIFY));
    let load = load::Load::start(&site.socket(), "upgrade", false);
    load.goes_on(50);
    site.install(VERSIONS[1]);
    load.goes_on(50);
    load.arrives(&site.sandbox);
    assert_ne!(site.process(), process, "the new version runs");
    assert_eq!(machine.systemctl(&["is-enabled", SERVICE, SOCKET]), "enabled\nenabled\n");
    assert_eq!((machine.property(SOCKET, "InvocationID"), machine.stat("%i", NOTIFY)), (socket, inode));
    assert_eq!(
        machine.ok("dpkg-query", &["--show", "--showformat=${Version}", "target-notifyd"]),
        VERSIONS[1]
    );
}

fn removed(site: &Site) {
    let machine = &site.machine;
    // Whoever waits at this moment starts no service again.
    let _waiting = Producer::at(&site.socket());
    machine.ok("dpkg", &["--remove", "target-notifyd"]);
    let units = machine.systemctl(&["list-units", "--no-legend", "--plain", "target-notifyd*"]);
    assert_eq!(units, "", "nothing runs and nothing failed");
    let left = || {
        let places = ["/etc", "/run", "/usr", "/var"];
        let found = [
            "-name",
            "*target-notify*",
            "-not",
            "-path",
            "/var/lib/dpkg/*",
            "-not",
            "-path",
            "/var/cache/*",
            "-prune",
        ];
        let said = machine.ok("find", &[&places[..], &found[..]].concat());
        let mut left: Vec<String> = said.lines().map(str::to_owned).collect();
        left.sort();
        left
    };
    let wants = |target: &str, unit: &str| format!("/etc/systemd/system/{target}.target.wants/{unit}");
    let kept = ["/etc/target-notifyd", STATE, "/var/lib/target-notifyd-shop"].map(str::to_owned);
    let found = left();
    for path in &kept {
        assert!(found.contains(path), "{path} stays: {found:?}");
    }
    assert!(machine.path(CONFIG).exists() && !machine.path("/usr/bin/target-notifyd").exists());

    machine.ok("dpkg", &["--purge", "target-notifyd"]);
    let found = left();
    // What an administrator made himself is his.
    let own = [
        "/etc/systemd/system/target-notifyd.service.d".to_owned(),
        wants("sockets", "target-notifyd@shop.socket"),
        wants("multi-user", "target-notifyd@shop.service"),
        "/etc/target-notifyd".to_owned(),
    ];
    let more: Vec<_> = found.iter().filter(|path| !own.contains(path)).collect();
    assert!(more.is_empty(), "{more:?}");
    let said = machine.ok("ls", &["/etc/target-notifyd"]);
    assert_eq!(said, "property-token\nshop.toml\n");
    assert_eq!(machine.systemctl(&["is-system-running"]).trim(), "running");
}
