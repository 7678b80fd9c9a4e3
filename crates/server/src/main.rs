//! The `tokenward` binary.

use std::process::ExitCode;

/// Requests allocate and free small things on the same thread, which this one is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tokenward_server::cli::main()
}
