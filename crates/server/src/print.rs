//! `println!` and `eprintln!` without their panics. Whoever read our output may have gone away (a
//! pager that was left, a terminal that was closed), and that must not end a process which has a
//! refresh to save.

use std::{
    fmt,
    io::{self, Write as _},
    sync::Mutex,
};

/// Why standard output could not be written to, if it was not for its reader's leaving.
static FAILED: Mutex<Option<String>> = Mutex::new(None);

/// Writes a line to standard output.
pub(crate) fn out(line: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let written = out
        .write_fmt(line)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
        && let Ok(mut failed) = FAILED.lock()
    {
        failed.get_or_insert(error.to_string());
    }
}

/// Writes a line to standard error, if it can be.
pub(crate) fn err(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Why standard output is not complete; `None` if it is, or if nobody wanted more of it.
pub(crate) fn failure() -> Option<String> {
    FAILED.lock().ok()?.take()
}

/// See [`crate::print`].
macro_rules! println {
    ($($what:tt)*) => { $crate::print::out(::std::format_args!($($what)*)) };
}

/// See [`crate::print`].
macro_rules! eprintln {
    ($($what:tt)*) => { $crate::print::err(::std::format_args!($($what)*)) };
}
