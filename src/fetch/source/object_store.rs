use std::{env, fmt, sync::Arc, time::Duration};

use ::object_store::{
    ClientOptions, GetOptions, ObjectStore as Store, ObjectStoreExt, ObjectStoreScheme,
    RetryConfig,
    aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
        HttpResponseBody, HttpService,
    },
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
    path::Path,
};
use http_body_util::BodyExt;

use super::client::Client;
use crate::{
    BoxError,
    error::Error,
    fetch::{Fetcher, Query, Release},
};

/// Above it a signature is none.
const MAX_SIGNATURE: u64 = 16 << 10;

/// A binary in an object store: S3 and what speaks it, Google Cloud Storage, Azure, a directory.
///
/// Credentials come from the environment, as the tools of these stores read them, or from the metadata
/// service of the machine.
///
/// # Example
///
/// ```
/// use graceful::fetch::{ObjectStore, Upgrade};
///
/// # fn main() -> Result<(), graceful::Error> {
/// let store = ObjectStore::new("s3://releases/app", [("aws_region", "eu-central-1")])?;
/// let upgrade = Upgrade::from(store)
///     .minisign("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3")
///     .version(env!("CARGO_PKG_VERSION"));
/// # drop(upgrade);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ObjectStore {
    store: Arc<dyn Store>,
    path: Path,
}

impl ObjectStore {
    /// The object at this URL, such as `s3://bucket/app`, `gs://bucket/app`, `az://container/app` or
    /// `file:///srv/app`; its signature has `.minisig` behind its name. The options are those of the
    /// crate `object_store`, such as `aws_endpoint`, and win over the environment.
    ///
    /// # Errors
    ///
    /// When it is no such URL, or an option is missing or unknown.
    pub fn new<'a>(
        url: &str,
        options: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Error> {
        let options = options.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let (store, path) = open(url, options.collect())
            .map_err(|error| Error::config(format!("cannot fetch from {url:?}")).because(error))?;
        Ok(Self { store, path })
    }
}

// Written by hand: a store may print more of its options than should stand in a log.
impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStore").field("path", &self.path).finish_non_exhaustive()
    }
}

/// One try may fail; a look that fails is repeated anyway.
fn retries() -> RetryConfig {
    RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(30), ..RetryConfig::default() }
}

fn open(url: &str, options: Vec<(String, String)>) -> Result<(Arc<dyn Store>, Path), BoxError> {
    // The builders of the three clouds have the same methods and no trait for them.
    macro_rules! store {
        ($builder:ty, $prefix:literal) => {{
            let mut builder = <$builder>::new();
            let environment = env::vars_os().filter_map(|(name, value)| {
                let name = name.to_str().filter(|name| name.starts_with($prefix))?;
                let key = name.to_ascii_lowercase().parse().ok()?;
                Some((key, value.to_str()?.to_owned()))
            });
            for (key, value) in environment {
                builder = builder.with_config(key, value);
            }
            builder = builder.with_url(url);
            for (key, value) in options {
                builder = builder.with_config(key.to_ascii_lowercase().parse()?, value);
            }
            let connector = Connector(Client::new());
            Arc::new(builder.with_http_connector(connector).with_retry(retries()).build()?)
        }};
    }
    let parsed = url.parse()?;
    let (scheme, path) = ObjectStoreScheme::parse(&parsed)?;
    let store: Arc<dyn Store> = match scheme {
        ObjectStoreScheme::AmazonS3 => store!(AmazonS3Builder, "AWS_"),
        ObjectStoreScheme::GoogleCloudStorage => store!(GoogleCloudStorageBuilder, "GOOGLE_"),
        ObjectStoreScheme::MicrosoftAzure => store!(MicrosoftAzureBuilder, "AZURE_"),
        ObjectStoreScheme::Local => Arc::new(LocalFileSystem::new()),
        _ => return Err("there is no object store of this kind".into()),
    };
    Ok((store, path))
}

impl Fetcher for ObjectStore {
    async fn fetch(&self, query: Query) -> Result<Option<Release>, BoxError> {
        let if_none_match = query.seen().map(str::to_owned);
        let options = GetOptions { if_none_match, ..GetOptions::default() };
        let result = match self.store.get_opts(&self.path, options).await {
            Err(::object_store::Error::NotModified { .. }) => return Ok(None),
            result => result?,
        };
        let signature = match query.wants_signature() {
            true => self.signature().await?,
            false => None,
        };
        let (tag, length) = (result.meta.e_tag.clone(), result.meta.size);
        Ok(Some(Release::new(result.into_stream()).length(length).tag(tag).signature(signature)))
    }
}

impl ObjectStore {
    async fn signature(&self) -> Result<Option<String>, BoxError> {
        let path = Path::parse(format!("{}.minisig", self.path))?;
        let result = match self.store.get(&path).await {
            Err(::object_store::Error::NotFound { .. }) => return Ok(None),
            result => result?,
        };
        if result.meta.size > MAX_SIGNATURE {
            return Err(format!("{path} is too large").into());
        }
        Ok(Some(String::from_utf8(result.bytes().await?.into())?))
    }
}

/// Lends the stores the HTTP client that is there already: theirs would bring a second TLS.
#[derive(Debug)]
struct Connector(Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> ::object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service(self.0.clone())))
    }
}

#[derive(Debug)]
struct Service(Client);

type Called<'a> = futures_util::future::BoxFuture<'a, Result<HttpResponse, HttpError>>;

// Written as `async_trait` writes it.
impl HttpService for Service {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> Called<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let sent = self.0.send(request).await;
            let response =
                sent.map_err(|error| HttpError::new_boxed(HttpErrorKind::Connect, error))?;
            let body = |error| HttpError::new::<hyper::Error>(HttpErrorKind::Interrupted, error);
            Ok(response.map(|incoming| HttpResponseBody::new(incoming.map_err(body))))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_store_is_known_by_its_url() {
        let azure = [("azure_storage_account_name", "a"), ("azure_storage_account_key", "YQ==")];
        ObjectStore::new("s3://bucket/app", [("aws_region", "eu-central-1")]).unwrap();
        ObjectStore::new("gs://bucket/app", []).unwrap();
        ObjectStore::new("az://container/app", azure).unwrap();
        ObjectStore::new("file:///srv/app", []).unwrap();
        for url in ["", "app", "ftp://a/b", "https://example.com/app"] {
            assert!(ObjectStore::new(url, []).unwrap_err().is_config(), "{url}");
        }
        assert!(ObjectStore::new("s3://bucket/app", [("colour", "red")]).unwrap_err().is_config());
    }

    #[tokio::test]
    async fn a_directory_is_a_store() {
        use futures_util::TryStreamExt;
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("app"), "the binary").unwrap();
        std::fs::write(directory.path().join("app.minisig"), "the signature").unwrap();
        let url = format!("file://{}/app", directory.path().display());
        let store = ObjectStore::new(&url, []).unwrap();
        let query = |seen| Query { seen, signature: true };
        let release = store.fetch(query(None)).await.unwrap().unwrap();
        assert_eq!(release.signature.as_deref(), Some("the signature"));
        assert_eq!(release.length, Some(10));
        let tag = release.tag.clone();
        let content: Vec<_> = release.content.try_collect().await.unwrap();
        assert_eq!(content.concat(), b"the binary");
        assert!(tag.is_some());
        assert!(store.fetch(query(tag)).await.unwrap().is_none(), "seen");
    }
}
