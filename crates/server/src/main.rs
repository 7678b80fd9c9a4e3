//! The `tokenward` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    tokenward_server::cli::main()
}
