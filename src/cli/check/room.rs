//! Room: the disk beside the queue's limits, these beside a submission's, and open files beside what all limits need.

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::places::nearest;
use super::report::Finding;
use crate::cli::operate::{bytes, some};
use crate::config::{Config, Queue};
use crate::daemon::{self, Files};
use crate::queue::{FILE_FACTOR, Free, MIN_FREE_FILES, free, reserve_bytes, too_few_files, used_bytes};
use crate::wire::submission::MAX_NOTIFICATIONS;

/// The free disk beside what the queue wants of it.
pub(super) fn disk(queue: &Queue) -> Vec<Finding> {
    const KEY: &str = "queue.min_free";
    let place = nearest(&queue.path);
    let Free { bytes: free, files } = match free(&place) {
        Ok(free) => free,
        Err(error) => {
            let told = format!("the free space of {} is unknown: {error}", place.display());
            return vec![Finding::failed(KEY, told, "df -h")];
        }
    };
    let used = used_bytes(&queue.path).unwrap_or(0);
    let held = reserve_bytes(&queue.path).min(queue.reserve);
    let least = queue.min_free.saturating_add(queue.reserve - held);
    let room = format!(
        "{} free on the disk of {}; queue.min_free {} and queue.reserve {} of it are kept",
        bytes(free),
        place.display(),
        bytes(queue.min_free),
        bytes(queue.reserve)
    );
    let mut findings = vec![match free < least {
        true => Finding::failed(
            KEY,
            format!("{room}: submissions are answered storage_full"),
            "df -h; free some, or lower queue.min_free",
        ),
        false => Finding::ok(KEY, room),
    }];
    if let Some(files) = files.filter(|_| too_few_files(files)) {
        let told = format!(
            "the disk of {} has room for {}, and {MIN_FREE_FILES} must stay free: submissions are answered storage_full",
            place.display(),
            some(files, "more file", "more files")
        );
        findings.push(Finding::failed("queue.path", told, "df -i; remove some files"));
    }
    let most = queue.max_bytes.saturating_mul(FILE_FACTOR);
    let (most_text, limit) = (bytes(most), bytes(queue.max_bytes));
    let fits = free.saturating_add(used).saturating_sub(least);
    let told = format!("the queue may take {limit} of payload, {most_text} of the disk");
    findings.push(match most <= fits {
        true => Finding::ok("queue.max_bytes", told),
        false => Finding::warning(
            "queue.max_bytes",
            format!("{told}, and {} are there: the disk is full first", bytes(fits)),
            "give the queue a larger disk, or lower queue.max_bytes",
        ),
    });
    if statfs(&place).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC) {
        let told =
            format!("{} is in memory (tmpfs): a restart of the machine loses every event", place.display());
        findings.push(Finding::warning("queue.path", told, "set queue.path on a disk"));
    }
    findings
}

/// Submissions that a producer may send and no queue of this size could hold.
pub(super) fn submissions(config: &Config) -> Vec<Finding> {
    let (line, most) = (config.ingest.max_line, &config.queue);
    let mut findings = Vec::new();
    if line > most.max_bytes {
        let told = format!(
            "a line may have {}, and the whole queue holds {}: a submission that has more never fits",
            bytes(line),
            bytes(most.max_bytes)
        );
        let act = "raise queue.max_bytes, or lower ingest.max_line";
        findings.push(Finding::warning("ingest.max_line", told, act));
    }
    if most.max_events < MAX_NOTIFICATIONS as u64 {
        let told = format!(
            "a submission may have {MAX_NOTIFICATIONS} notifications, and the whole queue holds {}: one that has more never fits",
            some(most.max_events, "event", "events")
        );
        findings.push(Finding::warning("queue.max_events", told, "raise queue.max_events"));
    }
    findings
}

/// The limit of open files beside what the limits of the configuration need.
pub(super) fn open_files(settings: &daemon::Settings) -> Finding {
    const KEY: &str = "ingest.max_connections";
    match Files::of(settings) {
        Err(error) => {
            Finding::warning(KEY, format!("the limit of open files is unknown: {error}"), "ulimit -n")
        }
        Ok(Files { limit, needed, connections }) if limit < needed as u64 => Finding::warning(
            KEY,
            format!(
                "{limit} files may be open and {needed} may be needed: {connections} connections are taken in"
            ),
            "raise LimitNOFILE=: systemctl edit target-notifyd",
        ),
        Ok(Files { limit, needed, .. }) => {
            Finding::ok(KEY, format!("{limit} files may be open, {needed} may be needed"))
        }
    }
}
