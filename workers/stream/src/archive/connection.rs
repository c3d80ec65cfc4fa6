//! What the archive reaches its store by.

use std::sync::Arc;

use aws_sdk_s3::Client;
use pinpipe_config::{RawZone, S3};
use pinpipe_runtime::s3;

use super::store::Store;
use crate::sink::SinkError;

/// What the archive reaches its store by.
#[derive(Debug)]
pub struct Connection {
    /// The client of the Secrets as they were when they could last be used.
    client: Option<Client>,
    /// The store, while it is open.
    pub store: Option<Arc<Store>>,
}

impl Connection {
    /// Opens the store when it is first needed.
    pub const fn closed() -> Self {
        Self {
            client: None,
            store: None,
        }
    }

    /// The store, opened if it isn't.
    pub async fn open(&mut self, zone: &RawZone, owner: &str) -> Result<Arc<Store>, SinkError> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let client = self.renewed(&zone.s3).await?;
        let opened = Store::open(client, zone, owner).await?;
        Ok(self.store.insert(Arc::new(opened)).clone())
    }

    /// A client of the Secrets as they are now, if they can be used.
    async fn renewed(&mut self, s3: &S3) -> anyhow::Result<Client> {
        match (s3::client(s3).await, &self.client) {
            (Ok(client), _) => Ok(self.client.insert(client).clone()),
            // Whoever watches the files reports why.
            (Err(_), Some(last)) => Ok(last.clone()),
            (Err(error), None) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_secret_that_can_t_be_used_leaves_the_last_client() {
        let name = format!("pinpipe-archive-credentials-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        for name in ["accessKeyId", "secretAccessKey"] {
            fs::write(folder.join(name), "key").unwrap();
        }
        let s3 = S3 {
            region: "eu-west-1".to_owned(),
            credentials_dir: Some(folder.clone()),
            ..S3::default()
        };
        let mut connection = Connection::closed();
        connection.renewed(&s3).await.unwrap();
        fs::remove_dir_all(&folder).unwrap();
        connection.renewed(&s3).await.unwrap();
        let error = Connection::closed().renewed(&s3).await.unwrap_err();
        assert!(format!("{error:#}").contains("accessKeyId"), "{error:#}");
    }
}
