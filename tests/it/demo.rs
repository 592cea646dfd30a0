//! The demonstration, as a visitor runs it.

use std::process::Command;

#[test]
fn the_demonstration_accounts_for_every_event() {
    let output = Command::new(env!("CARGO_BIN_EXE_target-notifyd"))
        .args(["demo", "--sessions", "120", "--events", "6", "--seed", "7", "--json"])
        .output()
        .expect("the demonstration runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let account: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the account is JSON");
    for (name, count) in [("submitted", 722), ("acknowledged", 721), ("impressions", 719), ("pending", 0)] {
        assert_eq!(account[name], count, "{name} in {account}");
    }
    assert_eq!(account["refused"]["invalid_event"], 1);
    let dead: Vec<_> =
        account["dead"].as_array().expect("a list").iter().map(|letter| &letter["id"]).collect();
    assert!(dead.contains(&&"demo-0-1".into()) && dead.contains(&&"demo-100-1".into()), "{dead:?}");
    assert!(told.contains("the daemon was killed after"), "{told}");
}
