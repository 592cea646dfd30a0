//! The executable: all of it is in the library.

use std::process::ExitCode;

use target_notifyd::cli;

fn main() -> ExitCode {
    cli::main().into()
}
