//! The life of the service: its start, its end, and what changes between.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use target_notifyd::sandbox::Faults;

use super::load::{Load, Producer};
use super::machine::{text, until};
use super::{NOTIFY, SERVICE, SOCKET, STATE, Site};

/// Where the package's examples are, and where they are put to use.
const EXAMPLES: &str = "/usr/share/doc/target-notifyd/examples";
const DROP_INS: &str = "/etc/systemd/system/target-notifyd.service.d";

/// How the socket looks from outside.
fn socket(site: &Site) -> String {
    site.machine.stat("%U:%G %a %i", NOTIFY)
}

pub(super) fn the_first_producer_starts_the_service(site: &Site) {
    site.configure("");
    assert_eq!(site.machine.property(SERVICE, "ActiveState"), "inactive");
    Producer::at(&site.socket()).submit("s", "first").expect("it is served");
    assert_eq!(site.machine.property(SERVICE, "ActiveState"), "active");
    site.taken("first");
    // The status line comes every five seconds.
    until("the status tells of the queue", || {
        let status = site.machine.property(SERVICE, "StatusText");
        (status.starts_with("0 pending; ") && status.ends_with("delivered a second")).then_some(())
    });
}

pub(super) fn owners_and_modes_stay_over_a_stop_and_a_start(site: &Site) {
    let (machine, before) = (&site.machine, socket(site));
    assert!(before.starts_with("root:target-notify 660 "), "{before}");
    let state = "target-notifyd:target-notifyd 700";
    assert_eq!(machine.stat("%U:%G %a", STATE), state);
    assert_eq!(machine.stat("%U %a", "/run/target-notifyd/admin.sock"), "target-notifyd 600");
    machine.systemctl(&["stop", SERVICE]);
    assert!(!machine.path("/run/target-notifyd").exists(), "systemd removes it");
    assert_eq!((socket(site), machine.stat("%U:%G %a", STATE)), (before.clone(), state.to_owned()));
    machine.systemctl(&["enable", "--now", SERVICE]);
    machine.systemctl(&["restart", SERVICE]);
    assert_eq!((socket(site), machine.stat("%U:%G %a", STATE)), (before, state.to_owned()));

    machine.write("/tmp/line", "{\"session_id\":\"s\",\"type\":\"click\"}\n");
    let send = |groups: &str| {
        let arguments = ["--reuid=nobody", "--regid=nogroup", groups, "target-notifyd", "send", "/tmp/line"];
        machine.run("setpriv", &[&arguments[..], &["--timeout", "0s"]].concat())
    };
    let sent = send("--groups=target-notify");
    assert!(sent.status.success() && text(&sent.stdout).contains("queued"), "{}", text(&sent.stderr));
    let refused = send("--clear-groups");
    assert!(
        refused.status.code() == Some(69) && text(&refused.stderr).contains("ermission"),
        "{}",
        text(&refused.stderr)
    );
}

pub(super) fn a_stop_waits_for_requests_under_way(site: &Site) {
    // Below the configured target.timeout, however slow the machine is.
    let answer = Duration::from_secs(7);
    site.drop_in("TimeoutStopSec=1s");
    site.machine.systemctl(&["restart", SERVICE]);
    site.sandbox.faults(Faults { latency: answer, ..Faults::default() });
    Producer::at(&site.socket()).submit("drained", "drained").expect("it is served");
    until("the request is under way", || {
        let status = site.machine.ok("target-notifyd", &["status", "--json"]);
        status.contains("\"in_flight\":1").then_some(())
    });
    let began = Instant::now();
    site.machine.systemctl(&["stop", SERVICE]);
    assert!(began.elapsed() > Duration::from_secs(1), "it waited");
    assert_eq!(site.machine.property(SERVICE, "Result"), "success");
    let ledger = site.sandbox.ledger();
    let times: Vec<u32> = ledger.records().filter(|one| one.id == "drained").map(|one| one.times).collect();
    assert_eq!(times, [1]);
    site.sandbox.faults(Faults::default());
    site.drop_in("");
    site.machine.systemctl(&["start", SERVICE]);
    let status = site.machine.ok("target-notifyd", &["status", "--json"]);
    assert!(status.contains("\"pending\":0"), "its answer was waited for, and committed: {status}");
}

pub(super) fn a_start_may_take_as_long_as_the_queue_takes_to_open(site: &Site) {
    let slow = site.machine.path("/usr/lib/slow.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/booted/slow.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let built = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(slow).arg(source).status();
    assert!(built.expect("a C compiler").success());
    // Within the first of these seconds the daemon asks for more; the disk takes twice as many.
    site.drop_in("TimeoutStartSec=6s\nEnvironment=LD_PRELOAD=/usr/lib/slow.so");
    let began = Instant::now();
    site.machine.systemctl(&["restart", SERVICE]);
    assert!(began.elapsed() > Duration::from_secs(12), "the disk is slow");
    site.drop_in("");
    site.machine.systemctl(&["restart", SERVICE]);
}

pub(super) fn restarts_under_load_show_no_producer_an_error(site: &Site) {
    let before = socket(site);
    let load = Load::start(&site.socket(), "restart", false);
    for _ in 0..5 {
        load.goes_on(30);
        site.machine.systemctl(&["restart", SERVICE]);
    }
    load.goes_on(30);
    load.arrives(&site.sandbox);
    assert_eq!(socket(site), before);
}

pub(super) fn a_reload_takes_a_good_file_and_refuses_a_bad_one(site: &Site) {
    let (machine, process) = (&site.machine, site.process());
    let load = Load::start(&site.socket(), "reload", false);
    let told = |event: &str| {
        until(event, || machine.journal(&["--unit", SERVICE, &format!("TARGET_NOTIFYD_EVENT={event}")]).pop())
    };
    site.configure("[log]\nlevel = \"info,target_notifyd::ingest=debug\"\n");
    machine.systemctl(&["reload", SERVICE]);
    let entry = told("reloaded");
    assert_eq!((&entry["TARGET_NOTIFYD_CHANGED"], &entry["PRIORITY"]), (&"log.level".into(), &"6".into()));
    site.configure("[log]\nlevel = 7\n");
    machine.systemctl(&["reload", SERVICE]);
    let entry = told("reload_failed");
    let problem = entry["TARGET_NOTIFYD_PROBLEM"].as_str().expect("a text");
    assert!(problem.contains("log.level") && entry["PRIORITY"] == "3", "{entry}");
    until("the status says so", || {
        machine.property(SERVICE, "StatusText").contains("the last reload was refused").then_some(())
    });
    site.configure("");
    machine.systemctl(&["reload", SERVICE]);
    until("the status is as before", || {
        (!machine.property(SERVICE, "StatusText").contains("refused")).then_some(())
    });
    load.goes_on(10);
    load.arrives(&site.sandbox);
    assert_eq!((site.process(), machine.property(SERVICE, "ActiveState")), (process, "active".to_owned()));
}

pub(super) fn the_property_token_comes_as_a_credential(site: &Site) {
    let (machine, token) = (&site.machine, "token-of-a-credential");
    machine.write("/etc/target-notifyd/property-token", token);
    machine.ok("chmod", &["600", "/etc/target-notifyd/property-token"]);
    // As the package's examples say; with the other one, nothing but loopback can be reached.
    let examples = ["credentials.conf", "proxy.conf"];
    for example in examples {
        let (from, to) = (format!("{EXAMPLES}/{example}"), format!("{DROP_INS}/{example}"));
        machine.ok("install", &["-D", "-m644", &from, &to]);
    }
    machine.systemctl(&["daemon-reload"]);
    // It refuses requests with this token alone.
    site.sandbox.faults(Faults { forbid_token: Some(token.to_owned()), ..Faults::default() });
    let refused = || site.sandbox.totals().answers.get(&403).copied().unwrap_or_default();
    let before = refused();
    machine.systemctl(&["restart", SERVICE]);
    Producer::at(&site.socket()).submit("secret", "secret").expect("it is served");
    until("the token is sent", || (refused() > before).then_some(()));
    site.sandbox.faults(Faults::default());
    machine.ok("target-notifyd", &["resume"]);
    site.taken("secret");
    for example in examples {
        machine.ok("rm", &[&format!("{DROP_INS}/{example}")]);
    }
    machine.systemctl(&["daemon-reload"]);
    machine.systemctl(&["restart", SERVICE]);
}

pub(super) fn a_queue_elsewhere_is_named_to_the_unit(site: &Site) {
    let (machine, elsewhere) = (&site.machine, "/srv/notify");
    machine.ok("install", &["-d", "-m700", "-o", "target-notifyd", "-g", "target-notifyd", elsewhere]);
    site.drop_in(&format!("Environment=TARGET_NOTIFYD_QUEUE__PATH={elsewhere}\nRestart=no"));
    let failed = machine.run("systemctl", &["restart", SERVICE]);
    assert!(!failed.status.success(), "the unit lets it write nowhere but where it says");
    let told = machine.journal(&["--unit", SERVICE, "--lines=20"]);
    let says =
        |entry: &serde_json::Value| entry["MESSAGE"].as_str().is_some_and(|text| text.contains("queue.conf"));
    assert!(told.iter().any(says), "what to do is told: {told:#?}");
    let (from, to) = (format!("{EXAMPLES}/queue.conf"), format!("{DROP_INS}/queue.conf"));
    machine.ok("install", &["-D", "-m644", &from, &to]);
    machine.systemctl(&["daemon-reload"]);
    machine.systemctl(&["restart", SERVICE]);
    Producer::at(&site.socket()).submit("elsewhere", "elsewhere").expect("it is served");
    site.taken("elsewhere");
    assert_ne!(machine.ok("ls", &[elsewhere]), "", "the queue is there");
    machine.ok("rm", &[&to]);
    site.drop_in("");
    machine.systemctl(&["restart", SERVICE]);
    machine.ok("rm", &["-r", elsewhere]);
}

pub(super) fn what_is_for_newer_versions_keeps_no_older_one_from_serving(site: &Site) {
    let machine = &site.machine;
    let (from, to) = (format!("{EXAMPLES}/newer.conf"), format!("{DROP_INS}/newer.conf"));
    machine.ok("install", &["-D", "-m644", &from, &to]);
    machine.systemctl(&["daemon-reload"]);
    machine.systemctl(&["restart", SERVICE]);
    Producer::at(&site.socket()).submit("newer", "newer").expect("it is served");
    site.taken("newer");
    if machine.property(SERVICE, "Type") == "notify-reload" {
        let reloaded = || machine.journal(&["--unit", SERVICE, "TARGET_NOTIFYD_EVENT=reloaded"]).len();
        let before = reloaded();
        machine.systemctl(&["reload", SERVICE]);
        assert_eq!(reloaded(), before + 1, "it returns once that is over");
    } else {
        assert_eq!(machine.property(SERVICE, "CanReload"), "no", "as its head says");
    }
    machine.ok("rm", &[&to]);
    machine.systemctl(&["daemon-reload"]);
    machine.systemctl(&["restart", SERVICE]);
}

pub(super) fn an_instance_stands_beside(site: &Site) {
    let machine = &site.machine;
    // Names are looked up within what the unit allows, too.
    let named = site.configuration("").replace("http://127.0.0.1:", "http://localhost:");
    machine.write("/etc/target-notifyd/shop.toml", named);
    machine.systemctl(&["enable", "--now", "target-notifyd@shop.service"]);
    assert_eq!(machine.systemctl(&["is-enabled", "target-notifyd@shop.socket"]), "enabled\n");
    Producer::at(&machine.path("/run/target-notifyd-shop.sock"))
        .submit("shop", "shop")
        .expect("it is served");
    site.taken("shop");
    let status = machine.ok("target-notifyd", &["status", "--instance", "shop", "--json"]);
    assert!(status.contains("\"accepted\":1"), "{status}");
    assert_eq!(machine.stat("%U %a", "/var/lib/target-notifyd-shop"), "target-notifyd 700");
    assert_eq!(machine.stat("%G %a", "/run/target-notifyd-shop.sock"), "target-notify 660");
    assert_eq!(machine.property(SOCKET, "ActiveState"), "active");
}
