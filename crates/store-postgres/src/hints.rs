//! Announcements between replicas: a hint that there is something to poll for.
//!
//! A `NOTIFY` in the transaction that it tells of would make all commits of the database wait for
//! one another. It is a statement of its own, after the commit, and one for all that was committed
//! while the one before was under way. It may be lost; the poll finds what it would have told.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tokio_postgres::AsyncMessage;
use tokio_util::task::TaskTracker;

use crate::{
    fault::Outcome,
    options::Target,
    pool::{Driver, Pool},
};

/// What this process has to say, and what it has heard. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hints(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    wanted: AtomicBool,
    said: Notify,
    heard: Notify,
}

impl Hints {
    /// Announcements are made from now on.
    pub(crate) fn will_be_heard(&self) {
        self.0.wanted.store(true, Ordering::Relaxed);
    }

    /// Something was committed that others may hold a copy of.
    pub(crate) fn say(&self) {
        if self.0.wanted.load(Ordering::Relaxed) {
            self.0.said.notify_one();
        }
    }

    /// Waits for news of another replica, or of this one.
    pub(crate) async fn hear(&self) {
        self.0.heard.notified().await;
        // One poll for what comes together.
        sleep(Duration::from_millis(5)).await;
    }
}

/// Announces what is said, for ever.
pub(crate) async fn announce(pool: Pool, hints: Hints) {
    loop {
        hints.0.said.notified().await;
        let told = async {
            let lease = pool.lease().await?;
            lease
                .within(lease.client().batch_execute("NOTIFY tokenward_changes"))
                .await
        };
        if let Err(fault) = told.await {
            tracing::debug!(
                ?fault,
                "a change was not announced; others find it when they poll"
            );
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Listens, for ever, on a connection of its own.
pub(crate) async fn listen(target: Target, hints: Hints, tasks: TaskTracker) {
    const MOST: Duration = Duration::from_secs(5);
    let mut pause = Duration::from_millis(100);
    let mut known = false;
    loop {
        match hear_until_lost(&target, &hints, &tasks, &mut known).await {
            Ok(()) => pause = Duration::from_millis(100),
            Err(fault) => {
                tracing::debug!(?fault, "cannot listen for changes");
                pause = (pause * 2).min(MOST);
            }
        }
        if known {
            known = false;
            tracing::warn!(
                "the connection that listens for changes is lost; polling alone until it is back"
            );
        }
        sleep(pause).await;
    }
}

async fn hear_until_lost(
    target: &Target,
    hints: &Hints,
    tasks: &TaskTracker,
    known: &mut bool,
) -> Outcome<()> {
    let (client, driver) = target.connect().await?;
    let ended = tasks.spawn(drive(driver, hints.clone()));
    client
        .batch_execute("LISTEN tokenward_changes")
        .await
        .map_err(|error| crate::fault::Fault::of_statement(&error))?;
    *known = true;
    tracing::debug!("listening for changes");
    // What was announced while nobody listened.
    hints.0.heard.notify_one();
    // A host that is gone without a word is noticed by the keep-alive of the connection.
    let _ = ended.await;
    Ok(())
}

async fn drive(mut driver: Driver, hints: Hints) {
    while let Some(Ok(message)) = poll_fn(|cx| driver.poll_message(cx)).await {
        if let AsyncMessage::Notification(_) = message {
            hints.0.heard.notify_one();
        }
    }
}
