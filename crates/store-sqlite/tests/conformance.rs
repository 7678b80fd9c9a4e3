//! What every store promises.

use std::sync::Arc;

use tokenward::store::Store;
use tokenward_store_sqlite::SqliteStore;
use tokenward_testkit::conformance::Subject;

async fn sqlite() -> Subject {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = move || -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&folder.path().join("vault.db")).expect("open"))
    };
    Subject::new(open()).reopened_by(open)
}

tokenward_testkit::conformance_tests!(sqlite);
