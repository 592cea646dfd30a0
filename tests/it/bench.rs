//! The measurement of this machine, with next to nothing to measure.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

#[test]
fn every_figure_of_speed_stands_beside_its_limit() {
    let folder = TempDir::new().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_target-notifyd"))
        .args(["bench", "accept,deliver,backlog", "--time", "30ms", "--events", "500", "--sessions", "20"])
        .args(["--backlog", "1000", "--json", "--folder"])
        .arg(folder.path())
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let text = String::from_utf8(output.stdout).expect("text");
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |part: &str, figure: &str| {
        let row = rows.iter().find(|row| row["part"] == part && row["figure"] == figure);
        row.unwrap_or_else(|| panic!("no {figure} of {part} in {text}"))
    };
    for part in ["accept, 1 waiting", "accept, 64 waiting", "accept, 16 x 256 pipelined", "socket to 200"] {
        let figure = if part == "socket to 200" { "delivered" } else { "accepted" };
        let row = of(part, figure);
        let ratio = row["ratio"].as_f64().expect("a ratio");
        let limit = row["limit"][1].as_f64().expect("a limit");
        assert!(
            ratio > 0.0 && (row["value"].as_f64().expect("a value") / limit - ratio).abs() < 1e-6,
            "{row}"
        );
    }
    assert!(of("socket to 200, one a session", "events a request")["value"] == 1.0);
    assert!(of("backlog of 1000, restart", "until it accepts")["value"].as_f64() > Some(0.0));
    assert!(of("backlog of 1000, draining", "peak memory")["value"].as_f64() > Some(1.0));
    // It takes with it what it made.
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
}
