//! What every store promises.

mod scene;

use std::sync::Arc;

use tokenward::store::Store;
use tokenward_store_postgres::{PostgresOptions, PostgresStore};
use tokenward_testkit::conformance::Subject;

async fn postgres() -> Subject {
    let cluster = scene::cluster(&[]);
    let url = cluster.url();
    let first = PostgresStore::open(PostgresOptions::parse(&url).expect("a URL"))
        .await
        .expect("open");
    Subject::new(Arc::new(first)).reopened_by(move || -> Arc<dyn Store> {
        // The cluster lives as long as this closure.
        let url = cluster.url();
        tokio::task::block_in_place(|| {
            let open = PostgresStore::open(PostgresOptions::parse(&url).expect("a URL"));
            Arc::new(
                tokio::runtime::Handle::current()
                    .block_on(open)
                    .expect("open"),
            )
        })
    })
}

tokenward_testkit::conformance_tests!(postgres);
