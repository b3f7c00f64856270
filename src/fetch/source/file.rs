use std::{
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{fs, time::sleep};
use tokio_util::io::ReaderStream;

use crate::{
    BoxError,
    fetch::{Fetcher, Query, Release},
};

/// A binary that somebody puts into a file, such as a build or `rsync`.
///
/// It is taken when it has not changed for a while, so that one that is still being written is not; and
/// not at all if it changes while it is read. Where there is no file there is nothing new. May be the
/// path of the program itself: then a new file there is reloaded.
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
    settle: Duration,
}

impl File {
    /// The binary at this path; its signature is beside it, with `.minisig` behind its name.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), settle: Duration::from_secs(2) }
    }

    /// How long it must not have changed. Default: 2 s.
    pub fn settle(mut self, time: Duration) -> Self {
        self.settle = time;
        self
    }

    /// The file, once it stays as it is.
    async fn settled(&self, seen: Option<&str>) -> io::Result<Option<(fs::File, Metadata)>> {
        let mut before = None;
        loop {
            let file = match fs::File::open(&self.path).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            let metadata = file.metadata().await?;
            let now = tag(&metadata);
            if seen == Some(now.as_str()) {
                return Ok(None);
            }
            if before.as_ref() == Some(&now) {
                return Ok(Some((file, metadata)));
            }
            before = Some(now);
            sleep(self.settle).await;
        }
    }
}

impl Fetcher for File {
    async fn fetch(&self, query: Query) -> Result<Option<Release>, BoxError> {
        let Some((file, metadata)) = self.settled(query.seen()).await? else { return Ok(None) };
        let (tag, path) = (tag(&metadata), self.path.clone());
        let signature = match query.wants_signature() {
            true => signature(&path).await?,
            false => None,
        };
        let is_unchanged = {
            let tag = tag.clone();
            stream::once(async move {
                let metadata = fs::metadata(&path).await?;
                if self::tag(&metadata) == tag {
                    return Ok(None);
                }
                Err(io::Error::other("it has changed while it was read"))
            })
        };
        let content = ReaderStream::with_capacity(file, 1 << 16)
            .map(|chunk| chunk.map(Some))
            .chain(is_unchanged)
            .filter_map(|chunk| std::future::ready(chunk.transpose()));
        let release = Release::new(content).length(metadata.len());
        Ok(Some(release.tag(tag).signature(signature)))
    }
}

async fn signature(path: &Path) -> io::Result<Option<String>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".minisig");
    match fs::read_to_string(name).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some),
    }
}

/// Another file, or another content, has another one.
fn tag(metadata: &Metadata) -> String {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    format!(
        "file {}:{} {} {seconds}.{nanoseconds:09}",
        metadata.dev(),
        metadata.ino(),
        metadata.len()
    )
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    fn query(seen: Option<&str>) -> Query {
        Query { seen: seen.map(str::to_owned), signature: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_taken_once_it_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app");
        let source = File::new(&path);
        assert!(source.fetch(query(None)).await.unwrap().is_none(), "there is none");
        std::fs::write(&path, "half").unwrap();
        let writer = {
            let path = path.clone();
            tokio::spawn(async move {
                sleep(Duration::from_secs(1)).await;
                std::fs::write(&path, "the whole").unwrap();
            })
        };
        let since = tokio::time::Instant::now();
        let release = source.fetch(query(None)).await.unwrap().unwrap();
        writer.await.unwrap();
        assert!(since.elapsed() >= Duration::from_secs(3), "it has changed once");
        let tag = release.tag.clone().unwrap();
        let content: Vec<_> = release.content.try_collect().await.unwrap();
        assert_eq!(content.concat(), b"the whole");
        assert!(source.fetch(query(Some(&tag))).await.unwrap().is_none(), "seen");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_changes_while_it_is_read_is_no_release() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app");
        std::fs::write(&path, "one").unwrap();
        let release = File::new(&path).fetch(query(None)).await.unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "two").unwrap();
        let error = release.content.try_collect::<Vec<_>>().await.unwrap_err();
        assert!(error.to_string().contains("changed"), "{error}");
    }
}
