//! The right of the folders: whether the queue and the sockets can be where they are to be.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, access};

use super::name;
use super::report::Finding;
use crate::config::MAX_SOCKET_PATH_BYTES;
use crate::queue::{expect_reserve, exposed, failed_before};

/// The most entries of the queue's folder that are looked at.
const MAX_ENTRIES: usize = 1_000;

/// Whether a socket's folder has to be there before a start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Folder {
    /// It has to.
    Present,
    /// A start makes it, if its parent is there.
    Made,
}

/// What keeps a file from being made in `folder`, if anything does.
fn obstacle(folder: &Path) -> Option<String> {
    let told = |why: &str| format!("{}: {why}", folder.display());
    match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => return Some(told("is no folder")),
        Ok(_) => {}
        Err(error) => return Some(told(&error.to_string())),
    }
    let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    access(folder, all).err().map(|errno| {
        let owner = fs::metadata(folder).map_or_else(|_| "?".to_owned(), |found| name(found.uid().into()));
        told(&format!("{}; it is owned by {owner}", errno.desc()))
    })
}

/// The nearest folder on the way to `path` that is there.
pub(super) fn nearest(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|one| one.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// The queue's folder, and what lies in it already.
pub(super) fn queue(path: &Path, user: Uid) -> Vec<Finding> {
    const KEY: &str = "queue.path";
    if fs::symlink_metadata(path).is_err() {
        let above = nearest(path);
        return vec![match obstacle(&above) {
            None => Finding::ok(KEY, format!("{} is absent: a start makes it", path.display())),
            Some(why) => Finding::failed(
                KEY,
                format!("{} is absent and cannot be made: {why}", path.display()),
                format!("install -d -m 0700 -o {} {}", name(user), path.display()),
            ),
        }];
    }
    let owner: Uid = fs::metadata(path).map_or(user, |found| found.uid().into());
    let as_owner = format!("runuser -u {} -- target-notifyd check, if the daemon runs so", name(owner));
    if let Some(why) = obstacle(path) {
        let taken = format!("chown -R {} {}, or another queue.path", name(user), path.display());
        // Taken from the daemon's user, the daemon could not start.
        let act = match owner == user || owner.is_root() {
            true => taken,
            false => format!("{as_owner}; else {taken}"),
        };
        return vec![Finding::failed(KEY, why, act)];
    }
    let mut findings =
        vec![Finding::ok(KEY, format!("{} can be written; it is owned by {}", path.display(), name(owner)))];
    if owner != user {
        let told = format!("checked as {}, and the folder is owned by {}", name(user), name(owner));
        findings.push(Finding::warning(KEY, told, as_owner));
    }
    if exposed(path) {
        let told = format!(
            "every user of this machine can enter {}: its events can be read, and its lock be taken",
            path.display()
        );
        findings.push(Finding::warning(KEY, told, format!("chmod 0700 {}", path.display())));
    }
    findings.extend(inside(path, owner));
    if let Err(error) = expect_reserve(path) {
        findings.push(Finding::failed(KEY, error, "as it is, a start ends with 74"));
    }
    if failed_before(path) {
        let told = "the disk failed before: the next start copies what can be read into a new database";
        findings.push(Finding::warning(KEY, told, "journalctl -k shows what the disk said"));
    }
    findings
}

/// What of the queue's files is not its owner's: a start by hand as root leaves such, and the service cannot open them.
fn inside(path: &Path, owner: Uid) -> Option<Finding> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let all = entries(path).flat_map(|entry| {
        let is_database = entry.file_name().to_string_lossy().starts_with("events.");
        let within = is_database.then(|| entries(&entry.path())).into_iter().flatten();
        std::iter::once(entry.path()).chain(within.map(|entry| entry.path())).collect::<Vec<_>>()
    });
    let foreign = all.take(MAX_ENTRIES).find(|entry| {
        let flags = AccessFlags::R_OK | AccessFlags::W_OK;
        let theirs = fs::symlink_metadata(entry).is_ok_and(|found| Uid::from_raw(found.uid()) != owner);
        theirs || access(entry, flags).is_err()
    })?;
    let whose =
        fs::symlink_metadata(&foreign).map_or_else(|_| "?".to_owned(), |found| name(found.uid().into()));
    let told =
        format!("{} is owned by {whose}: the daemon cannot open it as {}", foreign.display(), name(owner));
    Some(Finding::failed("queue.path", told, format!("chown -R {} {}", name(owner), path.display())))
}

/// A socket: its name, its folder, and what lies there already.
pub(super) fn socket(key: &'static str, path: &Path, folder: Folder) -> Vec<Finding> {
    let length = path.as_os_str().len();
    let fits = format!("{length} of {MAX_SOCKET_PATH_BYTES} bytes");
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let told = format!("{} exists and is no socket", path.display());
            return vec![Finding::failed(key, told, "move it away, or set another path")];
        }
        // Nobody is asked: a connection would start what a service manager starts by it.
        Ok(_) if served(path) => {
            let told = format!("{} is served ({fits}): a second daemon beside it is refused", path.display());
            return vec![Finding::ok(key, told)];
        }
        _ => {}
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let made = folder == Folder::Made && !parent.exists();
    let holder = if made { parent.parent().unwrap_or(parent) } else { parent };
    vec![match obstacle(holder) {
        None => Finding::ok(key, format!("{} can be made ({fits})", path.display())),
        Some(why) => {
            let act = match folder {
                Folder::Present => {
                    "mend the folder, or let the service manager make the socket: systemctl status target-notifyd.socket"
                }
                Folder::Made => {
                    "mend the folder, or set another path; without it status, queue and the like do not work"
                }
            };
            Finding::failed(key, format!("{} cannot be made: {why}", path.display()), act)
        }
    }]
}

/// Whether a process listens on `path`, by the system's list of sockets.
pub(super) fn served(path: &Path) -> bool {
    let Ok(list) = fs::read_to_string("/proc/net/unix") else { return false };
    let path = path.to_string_lossy();
    // Number, references, protocol, flags (10000: listens), type, state, inode, path.
    list.lines().any(|line| {
        let mut columns = line.split_whitespace();
        columns.nth(3) == Some("00010000") && line.ends_with(&format!(" {path}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_user_is_found_within_a_database_too() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("events.1/db");
        fs::create_dir(folder.path().join("events.1")).unwrap();
        fs::write(&log, "").unwrap();
        let owner = Uid::from_raw(fs::metadata(&log).unwrap().uid());
        assert!(inside(folder.path(), owner).is_none());
        // Only root can give a file away.
        let given = std::os::unix::fs::chown(&log, Some(owner.as_raw() + 1), None).is_ok();
        assert_eq!(inside(folder.path(), owner).is_some(), given);
    }
}
