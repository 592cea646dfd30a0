//! The place of a socket: what lies there already, and whether that may go.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use thiserror::Error;

/// What lies where a socket is to be made, and is not ours to remove.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// Somebody answers.
    #[error("is served by another process: stop it")]
    Served,
    /// It may be a live one, which cannot be asked.
    #[error(
        "is a socket that this user may not connect to, of another user's daemon perhaps: stop that, or move the socket away"
    )]
    Foreign,
    /// Whoever has it speaks otherwise.
    #[error("is a socket of another kind: move it away")]
    OtherKind,
    /// A file, or a folder.
    #[error("exists and is no socket: move it away")]
    NoSocket,
}

/// Removes a socket file that nobody serves; tells what else lies at `path`, and stays there.
///
/// # Errors
/// The system's: it can be neither looked at nor removed.
pub fn vacate(path: &Path) -> io::Result<Option<Obstacle>> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Ok(Some(Obstacle::NoSocket)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let Err(error) = UnixStream::connect(path) else { return Ok(Some(Obstacle::Served)) };
    match error.kind() {
        // What a file without a process behind it answers; anything else may be a live one.
        io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map(|()| None),
        io::ErrorKind::NotFound => Ok(None),
        // Not of its folder's right: it was looked at.
        io::ErrorKind::PermissionDenied => Ok(Some(Obstacle::Foreign)),
        _ if error.raw_os_error() == Some(Errno::EPROTOTYPE as i32) => Ok(Some(Obstacle::OtherKind)),
        _ => Err(error),
    }
}
