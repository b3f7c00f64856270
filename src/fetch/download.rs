//! From the stream into the file: at most so large, at most so slow, and read along by whoever judges.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use minisign_verify::StreamVerifier;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{failure::Failure, format, trust::Seal};
use crate::BoxError;

/// How many chunks may wait for the disk. They are what the download costs in memory.
const WAITING: usize = 4;

/// How much may come, and what it must look like.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    pub(super) length: Option<u64>,
    pub(super) limit: u64,
    /// The head of the program in place.
    pub(super) present: &'a [u8],
}

/// Writes the stream into the file. Answers its digest, when it is complete and what the seal says it
/// is.
pub(super) async fn download(
    mut content: BoxStream<'static, Result<Bytes, BoxError>>,
    file: File,
    seal: Seal,
    expected: Expected<'_>,
    mut progress: impl FnMut(u64),
) -> Result<String, Failure> {
    if let Some(length) = expected.length
        && length > expected.limit
    {
        return Err(Failure::TooLarge { limit: expected.limit });
    }
    let (chunks, written) = mpsc::channel(WAITING);
    // Neither a slow disk nor the arithmetic holds up the loop of the master.
    let writing = tokio::task::spawn_blocking(move || write(file, written, &seal));
    let mut head = Head::new(expected.present);
    let mut received = 0;
    while let Some(chunk) = content.next().await {
        let chunk = chunk.map_err(|cause| Failure::Interrupted { received, cause })?;
        received += chunk.len() as u64;
        if received > expected.limit {
            return Err(Failure::TooLarge { limit: expected.limit });
        }
        head.check(&chunk)?;
        progress(received);
        if chunks.send(chunk).await.is_err() {
            // The disk has failed; the task says how.
            break;
        }
    }
    // Its end is the end of the file.
    drop(chunks);
    let ended = head.end();
    let short = expected.length.filter(|length| *length != received);
    let judged = writing.await.map_err(|_| Failure::Panicked)?;
    match (judged, short) {
        (Err(failure @ Failure::File { .. }), _) => Err(failure),
        (_, Some(expected)) => Err(Failure::Length { received, expected }),
        (judged, None) => ended.and(judged),
    }
}

/// The first bytes, until there are enough to be judged.
struct Head<'a> {
    seen: Vec<u8>,
    present: &'a [u8],
}

impl<'a> Head<'a> {
    fn new(present: &'a [u8]) -> Self {
        Self { seen: Vec::with_capacity(format::HEAD), present }
    }

    fn check(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        let missing = format::HEAD - self.seen.len();
        if missing == 0 {
            return Ok(());
        }
        self.seen.extend(chunk.iter().take(missing));
        if self.seen.len() < format::HEAD { Ok(()) } else { self.end() }
    }

    fn end(&self) -> Result<(), Failure> {
        format::check(&self.seen, self.present)
    }
}

/// The digest of the file at `path`, if it is what the seal is for.
pub(super) fn find(path: &Path, seal: &Seal) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let mut reading = Reading::new(seal).ok()?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return reading.end(seal).ok(),
            length => reading.update(&buffer[..length]),
        }
    }
}

fn write(
    mut file: File,
    mut chunks: mpsc::Receiver<Bytes>,
    seal: &Seal,
) -> Result<String, Failure> {
    let mut reading = Reading::new(seal)?;
    let failed = |cause: io::Error| Failure::file("write", "the download")(cause);
    while let Some(chunk) = chunks.blocking_recv() {
        reading.update(&chunk);
        file.write_all(&chunk).map_err(failed)?;
    }
    let digest = reading.end(seal)?;
    // Before it has the name of the program: after a loss of power that must be a whole file.
    file.sync_all().map_err(failed)?;
    Ok(digest)
}

/// What is known of a binary that is read from its beginning to its end.
struct Reading<'a> {
    digest: Sha256,
    verifier: Option<StreamVerifier<'a>>,
}

impl<'a> Reading<'a> {
    fn new(seal: &'a Seal) -> Result<Self, Failure> {
        Ok(Self { digest: Sha256::new(), verifier: seal.verifier()? })
    }

    fn update(&mut self, chunk: &[u8]) {
        self.digest.update(chunk);
        if let Some(verifier) = &mut self.verifier {
            verifier.update(chunk);
        }
    }

    /// Its digest, if the seal fits.
    fn end(self, seal: &Seal) -> Result<String, Failure> {
        let digest = self.digest.finalize();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        seal.verify(self.verifier, &digest)?;
        Ok(digest)
    }
}
