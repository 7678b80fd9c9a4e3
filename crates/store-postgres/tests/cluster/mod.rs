//! A cluster for each test, copied from one that is made once.

use std::path::Path;

use tokenward_testkit::postgres::PostgresCluster;

pub(crate) fn start(settings: &[&str]) -> PostgresCluster {
    let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres-template");
    // The machine does not fail in a test: no need to wait for its disk.
    let settings = [&["fsync=off"], settings].concat();
    PostgresCluster::start_with(&settings, Some(&template)).expect("a PostgreSQL cluster")
}
