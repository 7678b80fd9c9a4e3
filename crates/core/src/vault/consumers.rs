//! Customers of an application, with all that they have.

use super::{Vault, admin::AdminError};
use crate::{
    id::{ApplicationId, ConsumerId},
    store::ConsumerDeletion,
};

/// How often somebody may add a connection while all are being deleted.
const TRIES: usize = 8;

impl Vault {
    /// Deletes a consumer and its connections, each as [`delete`](Self::delete) does.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    ///
    /// # Cancellation
    ///
    /// As with [`delete`](Self::delete): what was begun goes on.
    pub async fn delete_consumer(
        &self,
        application: &ApplicationId,
        consumer: &ConsumerId,
    ) -> Result<(), AdminError> {
        let (vault, application, consumer) = (self.clone(), application.clone(), consumer.clone());
        self.to_its_end(async move {
            let store = vault.store();
            for _ in 0..TRIES {
                for connection in store.connections(&application, Some(&consumer)).await? {
                    match vault.delete_and_revoke(&connection.key).await {
                        // Somebody else was faster.
                        Ok(()) | Err(AdminError::UnknownConnection(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                match store.delete_consumer(&application, &consumer).await? {
                    ConsumerDeletion::Deleted => return Ok(()),
                    ConsumerDeletion::Missing => return Err(AdminError::UnknownConsumer(consumer)),
                    ConsumerDeletion::InUse => {}
                }
            }
            Err(AdminError::Conflict)
        })
        .await
    }
}
