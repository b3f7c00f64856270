//! An HTTP/1 client that makes one connection for each request: there is one every few minutes.

use std::{io, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, Uri,
    header::{HOST, USER_AGENT},
    uri::PathAndQuery,
};
use http_body::Body;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::BoxError;

/// How long a connection may take, and how long an answer may not begin.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
}

impl Client {
    /// Trusts the certificate authorities that Mozilla trusts.
    pub(super) fn new() -> Self {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        Self::trusting(roots)
    }

    /// Trusts the certificates in this PEM file and no others.
    pub(super) fn trusting_file(path: &Path) -> Result<Self, BoxError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path)? {
            roots.add(certificate?)?;
        }
        match roots.is_empty() {
            true => Err("there is no certificate in it".into()),
            false => Ok(Self::trusting(roots)),
        }
    }

    fn trusting(roots: RootCertStore) -> Self {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has what the default protocol versions need")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { tls: Arc::new(config) }
    }

    /// Sends a request for an absolute URI. The connection ends with the body of the answer.
    pub(super) async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, BoxError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let uri = request.uri().clone();
        let what = format!("{} does not answer", Shown(&uri));
        let sent = timeout(PATIENCE, self.send_to(&uri, request)).await;
        sent.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, what))?
    }

    async fn send_to<B>(
        &self,
        uri: &Uri,
        request: Request<B>,
    ) -> Result<Response<Incoming>, BoxError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let host = uri.host().ok_or("the URL has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let tls = is_secure(uri)?;
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        if !tls {
            return exchange(stream, uri, request).await;
        }
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        exchange(stream, uri, request).await
    }
}

async fn exchange<B>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    uri: &Uri,
    mut request: Request<B>,
) -> Result<Response<Incoming>, BoxError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the answer was read or dropped, and an error of it is seen there.
    tokio::spawn(connection);
    let authority = uri.authority().ok_or("the URL has no host")?.as_str();
    // A password in a URL is not for the host.
    let host = authority.rsplit('@').next().unwrap_or(authority);
    if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, HeaderValue::from_str(host)?);
    }
    if !request.headers().contains_key(USER_AGENT) {
        let agent = concat!("graceful/", env!("CARGO_PKG_VERSION"));
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(agent));
    }
    let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = path.into();
    Ok(sender.send_request(request).await?)
}

/// Whether this is a URL for TLS.
pub(super) fn is_secure(uri: &Uri) -> Result<bool, BoxError> {
    match uri.scheme_str() {
        Some("https") => Ok(true),
        Some("http") => Ok(false),
        _ => Err(format!("{} is no http or https URL", Shown(uri)).into()),
    }
}

/// A URL for a message: without its query, in which there may be a signature that opens it.
pub(super) struct Shown<'a>(pub(super) &'a Uri);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (scheme, host) = (self.0.scheme_str().unwrap_or(""), self.0.host().unwrap_or(""));
        write!(f, "{scheme}://{host}")?;
        if let Some(port) = self.0.port_u16() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())
    }
}
