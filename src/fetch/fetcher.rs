use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream, stream::BoxStream};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::BoxError;

/// So much of a reader is read at once.
const CHUNK: usize = 1 << 16;

/// Where the next version of the program comes from.
///
/// [`File`](super::File), [`Http`](super::Http) and [`GitHubRelease`](super::GitHubRelease) are some;
/// a closure becomes one with [`from_fn`].
pub trait Fetcher: Send + Sync + 'static {
    /// Looks for a binary; nothing when there is none other than the one that was
    /// [seen](Query::seen) last.
    ///
    /// May be dropped at any time. What it yields need not be new, nor trustworthy: both are found out
    /// by whoever asks.
    fn fetch(&self, query: Query)
    -> impl Future<Output = Result<Option<Release>, BoxError>> + Send;
}

/// What a [`Fetcher`] is asked.
#[derive(Clone, Debug)]
pub struct Query {
    pub(super) seen: Option<String>,
    pub(super) signature: bool,
}

impl Query {
    /// The [tag](Release::tag) of the release that was dealt with last.
    pub fn seen(&self) -> Option<&str> {
        self.seen.as_deref()
    }

    /// Whether the [signature](Release::signature) will be wanted.
    pub fn wants_signature(&self) -> bool {
        self.signature
    }
}

/// A binary on its way, and what is known of it.
#[must_use = "a release is fetched by reading it"]
pub struct Release {
    pub(super) content: BoxStream<'static, Result<Bytes, BoxError>>,
    pub(super) length: Option<u64>,
    pub(super) tag: Option<String>,
    pub(super) sha256: Option<String>,
    pub(super) signature: Option<String>,
}

impl Release {
    /// A binary as a stream.
    pub fn new<S, E>(content: S) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let content = content.map_err(Into::into).boxed();
        Self { content, length: None, tag: None, sha256: None, signature: None }
    }

    /// A binary to be read: from a file, or from a process.
    pub fn from_reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::new(ReaderStream::with_capacity(reader, CHUNK))
    }

    /// A binary in memory.
    pub fn from_bytes(content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let length = content.len() as u64;
        Self::new(stream::iter([Ok::<_, BoxError>(content)])).length(length)
    }

    /// How many bytes it has: another number is an error then.
    pub fn length(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.length = bytes.into();
        self
    }

    /// By what the source will know it again, such as an ETag: the next [`Query`] has
    /// [seen](Query::seen) it.
    pub fn tag(mut self, tag: impl Into<Option<String>>) -> Self {
        self.tag = tag.into();
        self
    }

    /// All that the source says of it: with another signature it is another release. Nothing where the
    /// source has no name for it.
    pub(super) fn name(&self) -> Option<String> {
        let tag = self.tag.as_ref()?;
        let said = (tag, &self.sha256, &self.signature);
        Some(serde_json::to_string(&said).expect("strings become JSON"))
    }

    /// Its SHA-256 in hexadecimal, as the source has it. It must be right, but it does not make the
    /// binary trusted: whoever can alter the one can alter the other.
    pub fn sha256(mut self, digest: impl Into<Option<String>>) -> Self {
        self.sha256 = digest.into();
        self
    }

    /// The content of its minisign signature file.
    pub fn signature(mut self, signature: impl Into<Option<String>>) -> Self {
        self.signature = signature.into();
        self
    }
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Release")
            .field("length", &self.length)
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

/// Makes a [`Fetcher`] of a closure.
///
/// # Example
///
/// ```
/// use graceful::fetch::{Release, from_fn};
///
/// let nightly = from_fn(async |query| {
///     let tag = tokio::fs::read_to_string("/srv/builds/nightly").await?;
///     if query.seen() == Some(tag.as_str()) {
///         return Ok(None);
///     }
///     let file = tokio::fs::File::open(format!("/srv/builds/{tag}/app")).await?;
///     Ok(Some(Release::from_reader(file).tag(tag)))
/// });
/// # drop(nightly);
/// ```
pub fn from_fn<F, Fut>(fetch: F) -> FromFn<F>
where
    F: Fn(Query) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<Release>, BoxError>> + Send,
{
    FromFn(fetch)
}

/// A [`Fetcher`] made by [`from_fn`].
#[derive(Clone, Copy)]
pub struct FromFn<F>(F);

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn").finish_non_exhaustive()
    }
}

impl<F, Fut> Fetcher for FromFn<F>
where
    F: Fn(Query) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<Release>, BoxError>> + Send,
{
    async fn fetch(&self, query: Query) -> Result<Option<Release>, BoxError> {
        (self.0)(query).await
    }
}

type Fetched<'a> = Pin<Box<dyn Future<Output = Result<Option<Release>, BoxError>> + Send + 'a>>;

/// Any fetcher.
#[derive(Clone)]
pub(super) struct Source(Arc<dyn Erased>);

trait Erased: Send + Sync {
    fn fetch(&self, query: Query) -> Fetched<'_>;
}

impl<F: Fetcher> Erased for F {
    fn fetch(&self, query: Query) -> Fetched<'_> {
        Box::pin(Fetcher::fetch(self, query))
    }
}

impl Source {
    pub(super) fn new(fetcher: impl Fetcher) -> Self {
        Self(Arc::new(fetcher))
    }

    pub(super) async fn fetch(&self, query: Query) -> Result<Option<Release>, BoxError> {
        self.0.fetch(query).await
    }
}
