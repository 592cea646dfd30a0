//! What goes wrong under a service manager, and how it is told.

use super::load::{Load, Producer};
use super::machine::until;
use super::{CONFIG, NOTIFY, SERVICE, SOCKET, Site};

/// How often systemd has restarted the service by itself.
fn restarts(site: &Site) -> u32 {
    site.machine.property(SERVICE, "NRestarts").parse().expect("a number")
}

pub(super) fn a_killed_daemon_comes_back_and_nothing_is_lost(site: &Site) {
    let before = restarts(site);
    let load = Load::start(&site.socket(), "kill", true);
    load.goes_on(50);
    site.machine.systemctl(&["kill", "--signal=KILL", SERVICE]);
    load.goes_on(50);
    load.arrives(&site.sandbox);
    assert_eq!(restarts(site), before + 1);
}

pub(super) fn a_daemon_that_stands_still_is_restarted(site: &Site) {
    site.drop_in("WatchdogSec=3s\nTimeoutAbortSec=1s");
    site.machine.systemctl(&["restart", SERVICE]);
    let (before, process) = (restarts(site), site.process());
    site.machine.systemctl(&["kill", "--signal=STOP", SERVICE]);
    // What systemd aborts it continues first: until it has died, that daemon may still answer.
    until("the next daemon is started", || {
        (restarts(site) > before && site.process() != process).then_some(())
    });
    Producer::at(&site.socket()).submit("still", "still").expect("the next daemon serves it");
    let told = site.machine.journal(&["_PID=1", &format!("UNIT={SERVICE}")]);
    let watchdog = |entry: &serde_json::Value| {
        entry["MESSAGE"].as_str().is_some_and(|text| text.contains("Watchdog timeout"))
    };
    assert!(told.iter().any(watchdog), "systemd says why");
    site.taken("still");
    site.drop_in("");
    site.machine.systemctl(&["restart", SERVICE]);
}

pub(super) fn a_producer_waits_through_a_broken_configuration(site: &Site) {
    let machine = &site.machine;
    machine.systemctl(&["stop", SERVICE]);
    let inode = machine.stat("%i", NOTIFY);
    machine.write(CONFIG, "[target]\nclient = 7\n");
    let path = site.socket();
    let waiting = std::thread::spawn(move || Producer::at(&path).submit("patient", "patient"));
    let before = restarts(site);
    until("it was tried more than once", || (restarts(site) >= before + 2).then_some(()));
    assert_eq!(
        (machine.property(SOCKET, "Result"), machine.stat("%i", NOTIFY)),
        ("success".to_owned(), inode)
    );
    assert!(!waiting.is_finished());
    let told = machine.journal(&["--unit", SERVICE, "--lines=20"]);
    for wanted in ["config.toml:2: target.client", "status=78/CONFIG"] {
        let says =
            |entry: &serde_json::Value| entry["MESSAGE"].as_str().is_some_and(|text| text.contains(wanted));
        assert!(told.iter().any(says), "the journal says {wanted}: {told:#?}");
    }
    site.configure("");
    waiting.join().expect("no panic").expect("it is served");
    site.taken("patient");
}

pub(super) fn the_journal_can_be_searched(site: &Site) {
    let machine = &site.machine;
    let line = r#"{"session_id":"bad","type":"display","id":"bad","mbox":{"name":"m","state":"s"},"tokens":["POISON"]}"#;
    machine.write("/tmp/line", format!("{line}\n"));
    machine.ok("target-notifyd", &["send", "/tmp/line"]);
    let entry =
        until("the event is set aside", || machine.journal(&["TARGET_NOTIFYD_EVENT=dead_letter"]).pop());
    for (field, value) in [
        ("PRIORITY", "3"),
        ("SYSLOG_IDENTIFIER", "target-notifyd"),
        ("_SYSTEMD_UNIT", SERVICE),
        ("TARGET_NOTIFYD_REASON", "refused"),
        ("_TRANSPORT", "journal"),
    ] {
        assert_eq!(entry[field], value, "{field}: {entry:#}");
    }
    let id = format!("MESSAGE_ID={}", entry["MESSAGE_ID"].as_str().expect("an id"));
    let explained = machine.ok("journalctl", &["--no-pager", "--catalog", &id]);
    assert!(explained.contains("Subject: An event was set aside as a dead letter"), "{explained}");
    let started = machine.journal(&["TARGET_NOTIFYD_EVENT=started"]).pop().expect("it was started");
    assert_eq!(started["PRIORITY"], "6");
    machine.ok("target-notifyd", &["dead", "delete", "--all"]);
}

pub(super) fn without_a_journal_the_daemon_goes_on(site: &Site) {
    let (machine, process) = (&site.machine, site.process());
    let reloaded = || machine.journal(&["--unit", SERVICE, "TARGET_NOTIFYD_EVENT=reloaded"]).len();
    let before = reloaded();
    let journal = ["systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald.service"];
    machine.systemctl(&[&["stop"], &journal[..]].concat());
    machine.systemctl(&["reload", SERVICE]);
    Producer::at(&site.socket()).submit("unheard", "unheard").expect("it is served");
    site.taken("unheard");
    machine.systemctl(&[&["start"], &journal[..]].concat());
    until("it is heard again", || {
        machine.systemctl(&["reload", SERVICE]);
        (reloaded() > before).then_some(())
    });
    assert_eq!(site.process(), process);
}
