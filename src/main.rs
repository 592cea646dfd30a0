//! The executable: all of it is in the library, but for the allocator.

mod allocator;

use std::process::ExitCode;

use target_notifyd::cli;

fn main() -> ExitCode {
    allocator::settle();
    cli::main().into()
}
