//! The right of the folders: whether the queue and the sockets can be where they are to be.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Uid, User, access};

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

/// What keeps a file from being made in a folder.
struct Obstacle {
    why: String,
    /// Whether another user might make one.
    denied: bool,
}

/// What keeps a file from being made in `folder`, if anything does.
fn obstacle(folder: &Path) -> Option<Obstacle> {
    let told = |why: &str, denied| Some(Obstacle { why: format!("{}: {why}", folder.display()), denied });
    let found = match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => return told("is no folder", false),
        Ok(found) => found,
        Err(error) => return told(&error.to_string(), error.kind() == ErrorKind::PermissionDenied),
    };
    let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    let errno = access(folder, all).err()?;
    told(&format!("{}; it is owned by {}", errno.desc(), name(found.uid().into())), errno == Errno::EACCES)
}

/// `command`, which root alone may give, as whoever is asked may type it.
fn as_root(command: &str) -> String {
    let sudo = if Uid::effective().is_root() { "" } else { "sudo " };
    format!("{sudo}{command}")
}

/// The command by which root checks as the user and the group of `found`.
fn checked_as(found: &fs::Metadata) -> String {
    let user = Uid::from_raw(found.uid());
    as_root(&match User::from_uid(user).ok().flatten() {
        Some(user) => format!("runuser -u {} -- target-notifyd check", user.name),
        // It takes no number.
        None => {
            format!("setpriv --reuid={user} --regid={} --clear-groups -- target-notifyd check", found.gid())
        }
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
        let Some(Obstacle { why, denied }) = obstacle(&above) else {
            return vec![Finding::ok(KEY, format!("{} is absent: a start makes it", path.display()))];
        };
        let told = format!("{} is absent and cannot be made: {why}", path.display());
        let act = match denied {
            true => {
                let make = as_root(&format!("install -d -m 0700 -o USER {}", path.display()));
                format!("{make}, where USER is the daemon's user (this was checked as {})", name(user))
            }
            false => "mend what it names, or set another queue.path".to_owned(),
        };
        return vec![Finding::failed(KEY, told, act)];
    }
    let found = fs::metadata(path).ok();
    let owner: Uid = found.as_ref().map_or(user, |found| found.uid().into());
    let as_owner = found.as_ref().map_or_else(String::new, checked_as);
    let as_owner = format!("{as_owner}, if the daemon runs so");
    if let Some(Obstacle { why, denied }) = obstacle(path) {
        let chown = as_root(&format!("chown -R {} {}", name(user), path.display()));
        // Taken from the daemon's user, the daemon could not start.
        let act = match denied {
            true if owner == user => format!("chmod 0700 {}", path.display()),
            true if owner.is_root() => format!("{chown}, or another queue.path"),
            true => format!("{as_owner}; else {chown}, or another queue.path"),
            false => "mend what it names, or set another queue.path".to_owned(),
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
        let chmod = format!("chmod 0700 {}", path.display());
        findings.push(Finding::warning(KEY, told, if owner == user { chmod } else { as_root(&chmod) }));
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
    let act = as_root(&format!("chown -R {} {}", name(owner), path.display()));
    Some(Finding::failed("queue.path", told, act))
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
        Some(Obstacle { why, .. }) => {
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
