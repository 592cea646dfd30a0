//! What `--help` and the manual pages say behind the options of each command.
//!
//! The examples stand here together, so that no command is without one; the tests hold that, and try their options.

pub(in crate::cli) const EXAMPLES: &str = "\
Examples:
  target-notifyd check --config /etc/target-notifyd/config.toml
  target-notifyd run -o target.client=acmecorp -o target.organization_id=0DD934B85278256B0A490D44@AdobeOrg

Exit codes: 0 ended in order; 1 a submission was refused, a check did not pass, the daemon refused what an operator asked for, or a \
number is no dead letter; 64 the command line is wrong; 69 the daemon is not reachable; 73 a socket cannot be made, or an address not be listened on; 74 the queue cannot be opened, the disk \
failed, or the output cannot be written; 75 another instance holds the queue; 78 the configuration, the schema or the account is wrong.";
pub(in crate::cli) const RUN: &str = "\
Examples:
  target-notifyd run --config /etc/target-notifyd/config.toml
  TARGET_NOTIFYD_BATCH__LINGER=50ms target-notifyd run -o queue.path=/srv/notify";
pub(in crate::cli) const CHECK: &str = "\
Examples:
  target-notifyd check
  target-notifyd check --online --json
  target-notifyd check --config new.toml -o batch.linger=50ms";
pub(in crate::cli) const SEND: &str = "\
Examples:
  target-notifyd send --receipts events.jsonl
  echo '{\"session_id\":\"s1\",\"type\":\"click\",\"mbox\":{\"name\":\"home\"},\"tokens\":[\"t\"]}' | target-notifyd send

Order: Replies are printed in the order of the lines, each line's last one; a receipt comes behind the reply to its line. \
Up to 256 lines that are at hand are sent at once. Those that the daemon cannot take now are sent again, in their order, \
and hold back all that comes after until they are taken, refused, or the timeout is over; then what comes after has one \
try, until the daemon takes a line again. Among lines that are sent at once, one that the daemon takes can overtake one \
that it cannot take, of the same session, too.";
pub(in crate::cli) const DEMO: &str = "\
Examples:
  target-notifyd demo
  target-notifyd demo --sessions 1000 --events 20 --seed 7 --json";
pub(in crate::cli) const BENCH: &str = "\
Examples:
  target-notifyd bench accept,deliver --folder /var/lib --runs 5
  target-notifyd bench --json";
pub(in crate::cli) const SANDBOX: &str = "\
Examples:
  target-notifyd sandbox --listen 127.0.0.1:8080";
pub(in crate::cli) const STATUS: &str = "\
Examples:
  target-notifyd status
  target-notifyd status --watch --every 5s
  target-notifyd status --json";
pub(in crate::cli) const QUEUE: &str = "\
Examples:
  target-notifyd queue
  target-notifyd queue show session-17
  target-notifyd queue hold --host 35 --dry-run";
pub(in crate::cli) const QUEUE_LIST: &str = "\
Examples:
  target-notifyd queue list --limit 50
  target-notifyd queue list --scan --json";
pub(in crate::cli) const QUEUE_SHOW: &str = "\
Examples:
  target-notifyd queue show session-17 --limit 10";
pub(in crate::cli) const QUEUE_HOLD: &str = "\
Examples:
  target-notifyd queue hold session-17
  target-notifyd queue hold --host 35";
pub(in crate::cli) const QUEUE_RELEASE: &str = "\
Examples:
  target-notifyd queue release session-17
  target-notifyd queue release --all";
pub(in crate::cli) const QUEUE_RETRY: &str = "\
Examples:
  target-notifyd queue retry session-17
  target-notifyd queue retry --all --dry-run";
pub(in crate::cli) const QUEUE_DROP: &str = "\
Examples:
  target-notifyd queue drop session-17 --reason load-test
  target-notifyd queue drop --host 35 --reason closed --dry-run";
pub(in crate::cli) const DEAD: &str = "\
Examples:
  target-notifyd dead list
  target-notifyd dead requeue 17 18
  target-notifyd dead export --reason refused > refused.jsonl";
pub(in crate::cli) const DEAD_LIST: &str = "\
Examples:
  target-notifyd dead list --reason refused --newer-than 1h
  target-notifyd dead list --session session-17 --json";
pub(in crate::cli) const DEAD_SHOW: &str = "\
Examples:
  target-notifyd dead show 17";
pub(in crate::cli) const DEAD_REQUEUE: &str = "\
Examples:
  target-notifyd dead requeue 17 18
  target-notifyd dead requeue --reason refused --dry-run";
pub(in crate::cli) const DEAD_DELETE: &str = "\
Examples:
  target-notifyd dead delete 17
  target-notifyd dead delete --older-than 30days";
pub(in crate::cli) const DEAD_EXPORT: &str = "\
Examples:
  target-notifyd dead export --numbers numbers > dead.jsonl && xargs -r -n 5000 target-notifyd dead delete < numbers
  target-notifyd dead export --reason not_acknowledged --newer-than 1day > dead.jsonl";
pub(in crate::cli) const PAUSE: &str = "\
Examples:
  target-notifyd pause --for 10m --reason maintenance
  target-notifyd pause --host 35 --reason maintenance";
pub(in crate::cli) const RESUME: &str = "\
Examples:
  target-notifyd resume
  target-notifyd resume --host 35";
pub(in crate::cli) const FLUSH: &str = "\
Examples:
  target-notifyd flush
  target-notifyd flush --wait";
pub(in crate::cli) const TAIL: &str = "\
Examples:
  target-notifyd tail --outcome dead,retry
  target-notifyd tail --session session-17 -n 100 --json";
pub(in crate::cli) const STORE: &str = "\
Examples:
  target-notifyd store check
  target-notifyd store export > events.jsonl
  target-notifyd store repair";
pub(in crate::cli) const STORE_CHECK: &str = "\
Examples:
  target-notifyd store check
  target-notifyd store check --json -o queue.path=/srv/copy-of-the-queue";
pub(in crate::cli) const STORE_EXPORT: &str = "\
Examples:
  target-notifyd store export > events.jsonl
  target-notifyd store export --session session-17
  target-notifyd store export --dead --reason refused > refused.jsonl";
pub(in crate::cli) const STORE_REPAIR: &str = "\
Examples:
  target-notifyd store repair
  target-notifyd store repair --json";
pub(in crate::cli) const COMPLETIONS: &str = "\
Examples:
  target-notifyd completions bash > /usr/share/bash-completion/completions/target-notifyd
  target-notifyd completions zsh > /usr/share/zsh/vendor-completions/_target-notifyd
  target-notifyd completions fish > /usr/share/fish/vendor_completions.d/target-notifyd.fish";
pub(in crate::cli) const MAN: &str = "\
Examples:
  target-notifyd man . && man ./target-notifyd.8";
