//! The reference store passes the suite that it is the reference of.

use std::sync::Arc;

use tokenward::{store::MemoryStore, time::TokioClock};
use tokenward_testkit::conformance::Subject;

async fn memory() -> Subject {
    Subject::new(Arc::new(MemoryStore::new(Arc::new(TokioClock::default()))))
}

tokenward_testkit::conformance_tests!(memory);
