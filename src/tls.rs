//! TLS: which certificates a listener shows, and the stream below HTTP.
//!
//! [`Serve::tls`](crate::Serve::tls) and [`Serve::bind_tls`](crate::Serve::bind_tls) take a
//! [`TlsConfig`]. Each worker reads the files anew when it starts, so a reload is how certificates are
//! renewed. A reload with a file that cannot be used fails, and the old worker goes on with what it has.
//!
//! HTTP/2 is offered by ALPN (RFC 7301); a client that does not ask for it gets HTTP/1.

use std::{
    fmt,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{Accept, TlsAcceptor, server};

/// The TLS implementation, for [`TlsConfig::from_rustls`].
pub use tokio_rustls::rustls;

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{
    error::{Error, Kind},
    listener::Stream,
};

/// How long a handshake may take unless told otherwise.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is offered by ALPN, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificate and key of a listener, or a whole configuration of rustls.
///
/// # Example
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use graceful::tls::TlsConfig;
///
/// fn main() -> Result<(), graceful::Error> {
///     let app = Router::new().route("/", get(|| async { "hello" }));
///     let config = TlsConfig::from_pem_files("tls/cert.pem", "tls/key.pem");
///     graceful::serve(app).bind("0.0.0.0:80").bind_tls("0.0.0.0:443", config).run()
/// }
/// ```
#[derive(Clone)]
pub struct TlsConfig {
    source: Source,
    handshake_timeout: Duration,
}

#[derive(Clone)]
enum Source {
    PemFiles { cert: PathBuf, key: PathBuf },
    Rustls(Arc<ServerConfig>),
}

impl TlsConfig {
    /// Takes the certificate chain, the server's own first, and the private key from two PEM files.
    ///
    /// They are read when a worker starts, relative to its working directory; not here.
    pub fn from_pem_files(cert: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        let (cert, key) = (cert.as_ref().to_owned(), key.as_ref().to_owned());
        Self { source: Source::PemFiles { cert, key }, handshake_timeout: HANDSHAKE_TIMEOUT }
    }

    /// Takes a configuration as rustls has it: for client certificates, several names, other ciphers.
    ///
    /// If it offers nothing by ALPN, HTTP/2 and HTTP/1 are added. It is built before the server runs,
    /// in each worker, so that files which it was made of are read anew at a reload, too.
    pub fn from_rustls(config: Arc<ServerConfig>) -> Self {
        Self { source: Source::Rustls(config), handshake_timeout: HANDSHAKE_TIMEOUT }
    }

    /// How long a client may take for the handshake, from the moment it is connected. Default: 10 s.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Reads what there is to read.
    pub(crate) fn load(&self) -> Result<Acceptor, Error> {
        let config = match &self.source {
            Source::PemFiles { cert, key } => Arc::new(from_pem_files(cert, key)?),
            Source::Rustls(config) if config.alpn_protocols.is_empty() => {
                let mut config = ServerConfig::clone(config);
                config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
                Arc::new(config)
            }
            Source::Rustls(config) => config.clone(),
        };
        Ok(Acceptor { inner: config.into(), timeout: self.handshake_timeout })
    }
}

fn from_pem_files(cert: &Path, key: &Path) -> Result<ServerConfig, Error> {
    let failed = |what: &str, path: &Path| {
        let what = format!("cannot use the {what} in {}", path.display());
        move |error| Error::new(Kind::Tls, what).because(io::Error::other(error))
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed("certificate", cert))?;
    if chain.is_empty() {
        let none = rustls::pki_types::pem::Error::NoItemsFound;
        return Err(failed("certificate", cert)(none));
    }
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(failed("key", key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key_der))
        .map_err(|error| {
            let (cert, key) = (cert.display(), key.display());
            Error::new(Kind::Tls, format!("cannot serve TLS with {cert} and {key}")).because(error)
        })?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(config)
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TlsConfig");
        if let Source::PemFiles { cert, key } = &self.source {
            debug.field("cert", cert).field("key", key);
        }
        debug.field("handshake_timeout", &self.handshake_timeout).finish_non_exhaustive()
    }
}

/// What a handler may know of the TLS connection that its request came over; in the extensions of
/// the request.
#[derive(Clone)]
pub struct TlsSession {
    shared: Arc<Shared>,
}

struct Shared {
    server_name: Option<String>,
    peer_certificates: Vec<CertificateDer<'static>>,
}

impl TlsSession {
    /// The name that the client asked for (SNI, RFC 6066, section 3), if it did.
    pub fn server_name(&self) -> Option<&str> {
        self.shared.server_name.as_deref()
    }

    /// The client's certificates, its own first; none where none was asked for or given.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.shared.peer_certificates
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession")
            .field("server_name", &self.server_name())
            .field("peer_certificates", &self.peer_certificates().len())
            .finish()
    }
}

/// Makes TLS streams of a listener's connections.
#[derive(Clone)]
pub(crate) struct Acceptor {
    inner: TlsAcceptor,
    timeout: Duration,
}

impl Acceptor {
    /// Nothing is read before it is polled.
    pub(crate) fn start(&self, stream: Stream) -> Handshake {
        Handshake(Box::new(self.inner.accept(Records::new(stream))))
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// Completes when both sides have agreed: with the stream, and whether it is to be HTTP/2.
pub(crate) struct Handshake(Box<Accept<Records<Stream>>>);

impl Handshake {
    /// Whether the client has said anything.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.get_ref().is_none_or(|records| records.begun)
    }
}

impl Future for Handshake {
    type Output = io::Result<(Stream, bool)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stream = ready!(Pin::new(&mut *self.0).poll(cx))?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(PROTOCOLS[0]);
        Poll::Ready(Ok((Stream::Tls(Box::new(TlsStream(stream))), is_http2)))
    }
}

/// A TLS connection after its handshake.
pub struct TlsStream(server::TlsStream<Records<Stream>>);

impl TlsStream {
    /// The transport below.
    pub(crate) fn stream(&self) -> &Stream {
        &self.0.get_ref().0.inner
    }

    /// Whether a part of a record was read, or some wait in the kernel.
    pub(crate) fn has_input(&self) -> bool {
        let records = self.0.get_ref().0;
        !records.is_between() || records.inner.has_input()
    }

    pub(crate) fn session(&self) -> TlsSession {
        let connection = self.0.get_ref().1;
        let certificates = connection.peer_certificates().unwrap_or_default();
        let shared = Shared {
            server_name: connection.server_name().map(str::to_owned),
            peer_certificates: certificates.to_vec(),
        };
        TlsSession { shared: Arc::new(shared) }
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsStream").field(self.stream()).finish()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// The transport below TLS; knows whether it was last read in the middle of a record, which rustls does
/// not tell. A connection with half a record is not idle: a request is on its way.
#[derive(Debug)]
struct Records<S> {
    inner: S,
    begun: bool,
    /// Bytes of the header that were read (RFC 8446, section 5.1).
    header: usize,
    /// Bytes of the record that are yet to come; its length is complete when the header is.
    rest: usize,
}

/// Type, version and length of a record.
const HEADER: usize = 5;

impl<S> Records<S> {
    fn new(inner: S) -> Self {
        Self { inner, begun: false, header: 0, rest: 0 }
    }

    fn is_between(&self) -> bool {
        self.header == 0
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        self.begun |= !bytes.is_empty();
        while let Some((byte, others)) = bytes.split_first() {
            if self.header < HEADER {
                if self.header >= HEADER - 2 {
                    self.rest = self.rest << 8 | usize::from(*byte);
                }
                self.header += 1;
                bytes = others;
            } else {
                let now = self.rest.min(bytes.len());
                self.rest -= now;
                bytes = &bytes[now..];
            }
            if self.header == HEADER && self.rest == 0 {
                self.header = 0;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Records<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.pass(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Records<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_between_records_is_known_however_they_are_cut() {
        // Two records of 3 and 258 bytes, and an empty one.
        let mut bytes = vec![23, 3, 3, 0, 3, 1, 2, 3, 23, 3, 3, 1, 2];
        bytes.extend([9; 258]);
        bytes.extend([23, 3, 3, 0, 0]);
        let ends = [0, 8, 8 + 5 + 258, bytes.len()];
        for step in 1..=bytes.len() {
            let mut records = Records::new(());
            let mut at = 0;
            for part in bytes.chunks(step) {
                records.pass(part);
                at += part.len();
                assert_eq!(records.is_between(), ends.contains(&at), "{at} in steps of {step}");
            }
        }
    }
}
