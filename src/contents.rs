//! What a file holds, up to a limit: one that grows without end is read no further.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

/// All of `file`, which has to be within `most` bytes.
pub(crate) fn of(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is over {most} bytes")));
    }
    Ok(bytes)
}

/// As [`of`], of the file at `path`. Who opens a FIFO waits, perhaps for ever, and a device may have no end: neither is read.
pub(crate) fn at(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    of(File::open(path)?, most)
}
