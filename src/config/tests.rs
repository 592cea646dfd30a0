use super::*;
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tracing::Level;

fn load(file: Option<&str>, environment: &[(&str, &str)], overrides: &[&str]) -> Result<Config, Problems> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
    }
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Config::load(&Sources {
        file: path,
        file_required: file.is_some(),
        environment: environment.iter().map(pair).collect(),
        overrides: overrides.iter().map(|one| (*one).to_owned()).collect(),
        instance: None,
    })
}

#[test]
fn the_service_managers_folders_are_defaults_that_every_other_source_wins_over() {
    let environment = [("STATE_DIRECTORY", "/s"), ("RUNTIME_DIRECTORY", "/r")];
    let config = load(None, &environment, &[]).unwrap();
    assert_eq!(
        (config.queue.path.as_path(), config.admin.socket.as_path()),
        (Path::new("/s"), Path::new("/r/admin.sock"))
    );
    let config = load(Some("[queue]\npath = \"/own\"\n"), &environment, &["admin.socket=/a"]).unwrap();
    assert_eq!(
        (config.queue.path.as_path(), config.admin.socket.as_path()),
        (Path::new("/own"), Path::new("/a"))
    );
}

#[test]
fn a_reload_applies_what_may_change_and_names_what_takes_a_restart() {
    let running = load(None, &[], &["target.client=a", "queue.max_events=5"]).unwrap();
    let overrides = [
        "target.client=b",
        "target.location_hint=35",
        "target.property_token=secret",
        "defaults.channel=false",
        "ingest.socket=/other",
        "ingest.max_line=2MiB",
        "ingest.allow_users=[0]",
        "queue.path=/other",
        "queue.max_events=6",
        "batch.linger=1s",
        "retry.max=1h",
        "delivery.rate_limit=9",
        "log.level=debug",
        "admin.mode=0660",
        "shutdown.grace=1s",
    ];
    let (now, changes) = running.reloaded(load(None, &[], &overrides).unwrap());
    let applied = [
        "target.property_token",
        "target.location_hint",
        "ingest.allow_users",
        "ingest.max_line",
        "queue.max_events",
        "batch.linger",
        "retry.max",
        "delivery.rate_limit",
        "log.level",
    ];
    assert_eq!(changes.applied, applied);
    let restart =
        ["target.client", "defaults.channel", "ingest.socket", "queue.path", "admin.mode", "shutdown.grace"];
    assert_eq!(changes.restart, restart);
    assert_eq!((now.target.client.as_deref(), now.queue.max_events), (Some("a"), 6));
    // What waits for a restart is named with every reload until then.
    let (_, again) = now.reloaded(load(None, &[], &overrides).unwrap());
    assert_eq!(again, Changes { applied: vec![], restart: restart.to_vec() });
}

#[test]
fn without_anything_all_is_default_and_the_printed_defaults_load() {
    let defaults = load(None, &[], &[]).unwrap();
    assert_eq!(defaults.batch.linger, Duration::from_millis(500));
    assert_eq!((defaults.ingest.mode, defaults.ingest.max_line), (0o660, 1 << 20));
    assert_eq!(defaults.queue.path, Path::new("/var/lib/target-notifyd"));
    assert_eq!(load(Some(&Config::defaults_toml()), &[], &[]).unwrap(), defaults);
    let missing = defaults.account().unwrap_err().to_string();
    assert!(missing.contains("target.client") && missing.contains("target.organization_id"), "{missing}");
}

#[test]
fn an_argument_wins_over_the_environment_and_that_over_the_file() {
    let file = "[batch]\nlinger = \"1s\"\nmax_events = 10\n[retry]\ninitial = \"3s\"\n";
    let environment = [("TARGET_NOTIFYD_BATCH__LINGER", "2s"), ("TARGET_NOTIFYD_BATCH__MAX_EVENTS", "20")];
    let config = load(Some(file), &environment, &["batch.linger=3s", "target.client=acme"]).unwrap();
    assert_eq!((config.batch.linger, config.batch.max_events), (Duration::from_secs(3), 20));
    assert_eq!(config.retry.initial, Duration::from_secs(3));
    assert_eq!(config.target.client.as_deref(), Some("acme"));
}

#[test]
fn an_endpoint_of_ones_own_turns_edge_routing_off() {
    assert!(load(None, &[], &[]).unwrap().target.edge_endpoint.is_some());
    let local = "target.endpoint=http://127.0.0.1:1";
    assert_eq!(load(None, &[], &[local]).unwrap().target.edge_endpoint, None);
    let edge = "target.edge_endpoint=http://127.0.0.1:1/edge{cluster}";
    assert!(load(None, &[], &[local, edge]).unwrap().target.edge_endpoint.is_some());
    assert_eq!(load(None, &[], &["target.edge_endpoint="]).unwrap().target.edge_endpoint, None);
}

#[test]
fn clear_text_is_for_loopback_whatever_the_cluster() {
    for (edge, kept) in
        [("127.0.0.{cluster}:80", true), ("10.0.0.{cluster}", false), ("e{cluster}.test", false)]
    {
        let loaded = load(None, &[], &[&format!("target.edge_endpoint=http://{edge}")]);
        assert_eq!(loaded.is_ok(), kept, "{edge}");
        assert!(
            loaded
                .err()
                .is_none_or(|wrong| wrong.to_string().contains("target.edge_endpoint is not encrypted"))
        );
    }
}

#[test]
fn all_problems_are_told_at_once_with_their_places() {
    let file = "[batch]\nlingr = \"1s\"\nmax_events = 51\n[queue]\nmax_age = \"often\"\n";
    let problems =
        load(Some(file), &[("TARGET_NOTIFYD_RETRY__MULTIPLIER", "x")], &["delivery.concurrency=0"]);
    let text = problems.unwrap_err().to_string();
    for expected in [
        "config.toml:2: batch.lingr",
        "batch.linger",
        "config.toml:3: batch.max_events",
        "config.toml:5: queue.max_age",
        "TARGET_NOTIFYD_RETRY__MULTIPLIER: retry.multiplier",
        "-o: delivery.concurrency",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    assert_eq!(text.lines().count(), 5, "{text}");
}

#[test]
fn keys_that_do_not_go_together_are_told_whatever_is_wrong_beside_them() {
    let told = |overrides: &[&str]| load(None, &[], overrides).unwrap_err().to_string();
    // No number, no token, and too long for a socket.
    let neither = format!("/ {}", "a".repeat(200));
    for (beside, keys, relation) in [
        (
            "ingest.mode=9",
            ["ingest.max_line=2MiB", "ingest.buffer_max_bytes=1MiB"],
            "at least ingest.max_line",
        ),
        ("ingest.mode=9", ["ingest.socket=/a", "admin.socket=/a"], "must differ"),
        ("queue.max_age=1", ["queue.reserve=2MiB", "queue.min_free=3MiB"], "at most half of queue.min_free"),
        ("retry.multiplier=x", ["retry.initial=2m", "retry.max=1m"], "at most retry.max"),
        (
            "delivery.max_hosts=0",
            ["delivery.breaker_open=2s", "delivery.breaker_max=1s"],
            "at most delivery.breaker_max",
        ),
        (
            "target.timeout=0s",
            ["target.endpoint=http://a.test", "target.allow_http=false"],
            "is not encrypted",
        ),
        ("target.timeout=0s", ["target.property_token_file=/a", "target.property_token=a"], "only one of"),
    ] {
        let both = told(&[beside, keys[0], keys[1]]);
        assert!(both.contains(relation) && both.lines().count() == 2, "{both}");
        // Where one of them is wrong by itself nobody knows what it is to be.
        let (key, _) = keys[1].split_once('=').unwrap();
        let wrong = told(&[beside, keys[0], keys[1], &format!("{key}={neither}")]);
        assert!(!wrong.contains(relation) && wrong.lines().count() == 2, "{wrong}");
    }
    // Nor where nobody knows what the file sets.
    let broken = load(Some("[queue"), &[], &["queue.reserve=200MiB"]).unwrap_err().to_string();
    assert!(broken.contains("is no TOML") && broken.lines().count() == 1, "{broken}");
}

#[test]
fn a_command_of_one_key_goes_on_whatever_is_wrong_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let socket = |text: &str, argument: &str| {
        std::fs::write(&file, text).unwrap();
        let overrides = Some(argument).filter(|one| !one.is_empty()).map(str::to_owned).into_iter().collect();
        let sources = Sources { file: file.clone(), file_required: true, overrides, ..Sources::default() };
        Config::for_key(&sources, "admin.socket").map(|(config, beside)| (config.admin.socket, beside.len()))
    };
    let beside = "[batch]\nlingr = 1\n[queue]\nmax_age = 2\n[admin]\nmetrics_listen = \"x\"\n";
    for (text, argument, expected) in [
        ("", "", ("/run/target-notifyd/admin.sock", 0)),
        (beside, "", ("/run/target-notifyd/admin.sock", 3)),
        (&format!("{beside}socket = \"/a/s\"\n"), "", ("/a/s", 3)),
        (beside, "admin.socket=/b/s", ("/b/s", 3)),
        // Whatever the file says of it.
        ("[admin]\nsocket = 5\n", "admin.socket=/b/s", ("/b/s", 1)),
        ("[admni]\nsocket = \"/a/s\"\n", "admin.socket=/b/s", ("/b/s", 1)),
        ("this is no TOML", "admin.socket=/b/s", ("/b/s", 1)),
    ] {
        assert_eq!(socket(text, argument), Ok((expected.0.into(), expected.1)), "{text} {argument}");
    }
    for (text, argument) in [
        ("[admin]\nsocket = 5\n", ""),
        // What may have been meant for it: another daemon would be asked.
        ("[admin]\nsokcet = \"/a/s\"\n", ""),
        ("[admni]\nsocket = \"/a/s\"\n", ""),
        ("admin = \"/a/s\"\n", ""),
        ("this is no TOML", ""),
        ("this is no TOML", "ingest.socket=/b/s"),
        ("", "admin.path=/a/s"),
    ] {
        assert!(socket(text, argument).is_err(), "{text} {argument}");
    }
    // A folder of the service manager stands in for a default alone.
    for (name, value, is_told) in
        [("TARGET_NOTIFYD_ADMIN__SOCKET", "/b/s", false), ("RUNTIME_DIRECTORY", "/b", true)]
    {
        std::fs::write(&file, "this is no TOML").unwrap();
        let environment = vec![(name.to_owned(), value.to_owned())];
        let sources = Sources { file: file.clone(), environment, ..Sources::default() };
        assert_eq!(Config::for_key(&sources, "admin.socket").is_err(), is_told, "{name}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_alone() {
    let folder = tempfile::tempdir().unwrap();
    let told = |file: std::path::PathBuf, file_required| {
        let sources = Sources { file, file_required, ..Sources::default() };
        Config::to_run(&sources).map(|_| ()).unwrap_err().to_string()
    };
    // What it may have set is not missing.
    for file in [folder.path().join("absent"), folder.path().to_owned()] {
        let told = told(file, true);
        assert!(told.contains("the configuration file cannot be read: "), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    let nothing = told(folder.path().join("absent"), false);
    assert!(nothing.starts_with("not set: target.client ") && nothing.lines().count() == 2, "{nothing}");
    let broken = folder.path().join("broken");
    for text in [
        "[target]\nclient = acme\norganization_id = \"o\"\n[batch]\nlinger = 7\n",
        "[target\nclient = \"acme\"\norganization_id = \"o\"\n",
    ] {
        std::fs::write(&broken, text).unwrap();
        let told = told(broken.clone(), true);
        assert!(
            told.lines().all(|line| line.contains("/broken:") && line.contains(": this is no TOML: ")),
            "{told}"
        );
    }
}

#[test]
fn an_account_that_is_set_to_nothing_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    for (beside, wrong) in [("", 0), ("\n[batch]\nlinger = 7", 1)] {
        std::fs::write(&file, format!("[target]\norganization_id = \"\"{beside}")).unwrap();
        let environment = vec![("TARGET_NOTIFYD_TARGET__CLIENT".to_owned(), String::new())];
        let sources = Sources { file: file.clone(), environment, ..Sources::default() };
        let told = Config::to_run(&sources).map(|_| ()).unwrap_err().to_string();
        assert!(told.contains("/config.toml:2: target.organization_id is required to run"), "{told}");
        assert!(told.contains("\nTARGET_NOTIFYD_TARGET__CLIENT: target.client is required to run"), "{told}");
        assert_eq!(told.lines().count(), 2 + wrong, "{told}");
    }
}

#[test]
fn a_token_in_a_file_is_taken_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let key = format!("target.property_token_file={}", path.display());
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        load(None, &[], &[&key]).map(|config| config.target.property_token)
    };
    let most = "t".repeat(4_096);
    let key = "-o: target.property_token_file must name a readable file with a token: ";
    assert_eq!(read(&most).unwrap().unwrap().as_str(), most);
    assert_eq!(read(" s3cret\n").unwrap().unwrap().as_str(), "s3cret");
    for (text, why) in [
        (most.clone() + "t", "it is over 4096 bytes"),
        // Cut within a character, too.
        ("t".repeat(4_095) + "…", "it is over 4096 bytes"),
        (String::new(), "it holds no token of visible ASCII characters"),
    ] {
        let told = read(&text).unwrap_err().to_string();
        assert!(told.starts_with(key) && told.ends_with(why), "{told}");
    }
    // Nobody writes into it: who opened it would wait.
    std::fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    for path in [path.as_path(), folder.path(), Path::new("/dev/zero")] {
        let named = format!("target.property_token_file={}", path.display());
        let told = load(None, &[], &[&named]).unwrap_err().to_string();
        assert!(told.starts_with(key) && told.ends_with("it is no regular file"), "{told}");
    }
}

#[test]
fn the_two_sockets_differ_however_their_paths_are_spelt() {
    for (ingest, admin) in [("/a/s", "/a/s"), ("/a/s", "/a//./s"), ("s", "./s")] {
        let file = format!("[ingest]\nsocket = \"{ingest}\"\n[admin]\nsocket = \"{admin}\"\n");
        let problems = load(Some(&file), &[], &[]).map(|_| ()).unwrap_err().to_string();
        assert!(problems.contains("config.toml:4: admin.socket does not fit: ingest.socket"), "{problems}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
        // The one that was set last is the one to change.
        let later = load(Some(&file), &[], &[&format!("ingest.socket={admin}")]).unwrap_err().to_string();
        assert!(later.contains("-o: ingest.socket ") && later.contains("admin.socket"), "{later}");
    }
    assert!(load(None, &[], &["ingest.socket=/a/s", "admin.socket=/a/t"]).is_ok());
}

#[test]
fn every_bad_value_names_its_key() {
    for bad in [
        "target.location_hint=12345",
        "target.endpoint=ftp://example.com",
        "target.endpoint=http://example.com",
        "target.timeout=0s",
        "ingest.mode=999",
        "ingest.max_line=1",
        "ingest.allow_users=no-such-user-here",
        "ingest.max_connections=0",
        "queue.reserve=1GiB",
        "queue.index_max_bytes=1",
        "batch.max_events=0",
        "retry.initial=10m",
        "retry.multiplier=0.5",
        "delivery.breaker_open=1h",
        "log.format=xml",
        "log.level=loud=loud=loud",
        "log.identifiers=some",
        "nonsense.key=1",
        "batch.linger",
    ] {
        let problems = load(None, &[], &[bad]).map(|_| ()).unwrap_err().to_string();
        let key = bad.split('=').next().unwrap();
        assert!(problems.contains(key), "{bad}: {problems}");
    }
    let nameless = load(None, &[], &["=5"]).unwrap_err().to_string();
    assert_eq!(nameless, "-o: =5 must be KEY=VALUE, such as batch.linger=50ms");
}

#[test]
fn a_level_is_meant_for_this_program_and_what_is_named_wins() {
    let enabled = |level: &str, target: &str| {
        let read = load(None, &[], &[&format!("log.level={level}")]).unwrap().log.level;
        let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
        levels.into_iter().find(|level| read.would_enable(target, level))
    };
    for (level, target, expected) in [
        ("debug", "target_notifyd::delivery", Some(Level::DEBUG)),
        ("debug", "h2", Some(Level::WARN)),
        ("debug", "rustls_platform_verifier::verification", None),
        ("error", "h2", Some(Level::ERROR)),
        ("info,target_notifyd=trace", "target_notifyd", Some(Level::TRACE)),
        ("info,target_notifyd::queue=debug", "target_notifyd::delivery", Some(Level::INFO)),
        ("info,h2=debug", "h2", Some(Level::DEBUG)),
        ("info,rustls_platform_verifier=error", "rustls_platform_verifier", Some(Level::ERROR)),
        ("h2=info", "target_notifyd", None),
    ] {
        assert_eq!(enabled(level, target), expected, "{level} for {target}");
    }
}
