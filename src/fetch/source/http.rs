use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::{
    client::{Client, is_secure},
    transfer::Transfer,
};
use crate::{
    BoxError,
    error::Error,
    fetch::{Fetcher, Query, Release},
};

/// A binary at an HTTP or HTTPS URL.
///
/// It is asked for under the condition that it is another one than before, by its ETag or its date.
/// Redirects are followed, though never from https to http. A download that breaks off goes on where it
/// broke off, if the server says by what to know it again. TLS is rustls', with the certificate
/// authorities that Mozilla trusts; proxies in the environment are ignored.
///
/// # Example
///
/// ```
/// use graceful::fetch::{Http, Upgrade};
///
/// # fn main() -> Result<(), graceful::Error> {
/// let source = Http::new("https://releases.example.com/app")?.header("x-token", "secret")?;
/// let upgrade = Upgrade::from(source)
///     .minisign("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3")
///     .version(env!("CARGO_PKG_VERSION"));
/// # drop(upgrade);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Http {
    transfer: Transfer,
    signature: Uri,
}

impl Http {
    /// The binary at this URL; its signature is at the same one with `.minisig` behind its path.
    ///
    /// # Errors
    ///
    /// When it is no such URL.
    pub fn new(url: impl AsRef<str>) -> Result<Self, Error> {
        let url = parse(url.as_ref())?;
        let path = match url.query() {
            Some(query) => format!("{}.minisig?{query}", url.path()),
            None => format!("{}.minisig", url.path()),
        };
        let mut parts = url.clone().into_parts();
        parts.path_and_query = path.parse().ok();
        let signature = Uri::from_parts(parts).map_err(|error| no_url(url.to_string(), error))?;
        let transfer = Transfer {
            client: Client::new(),
            url,
            headers: HeaderMap::new(),
            secrets: HeaderMap::new(),
            redirects: 5,
        };
        Ok(Self { transfer, signature })
    }

    /// Sends this header, too, but to no other host that a redirect leads to.
    ///
    /// # Errors
    ///
    /// When it is no header.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, Error> {
        let no = || Error::config(format!("{name:?} cannot be sent as a header"));
        let name = HeaderName::try_from(name).map_err(|error| no().because(error))?;
        let mut value = HeaderValue::from_str(value).map_err(|error| no().because(error))?;
        value.set_sensitive(true);
        self.transfer.secrets.insert(name, value);
        Ok(self)
    }

    /// Where the minisign signature is.
    ///
    /// # Errors
    ///
    /// When that is no HTTP or HTTPS URL.
    pub fn signature_url(mut self, url: impl AsRef<str>) -> Result<Self, Error> {
        self.signature = parse(url.as_ref())?;
        Ok(self)
    }

    /// How many redirects are followed. Default: 5.
    pub fn redirects(mut self, redirects: u32) -> Self {
        self.transfer.redirects = redirects;
        self
    }

    /// Trusts the certificates in this PEM file, and no others: for an authority of one's own.
    ///
    /// # Errors
    ///
    /// When it cannot be read or has none.
    pub fn root_certificates(mut self, path: impl AsRef<Path>) -> Result<Self, Error> {
        self.transfer.client = trusting(path.as_ref())?;
        Ok(self)
    }
}

impl Fetcher for Http {
    async fn fetch(&self, query: Query) -> Result<Option<Release>, BoxError> {
        let Some(release) = self.transfer.release(query.seen()).await? else { return Ok(None) };
        if !query.wants_signature() {
            return Ok(Some(release));
        }
        let signature = self.transfer.to(self.signature.clone()).signature().await?;
        Ok(Some(release.signature(signature)))
    }
}

/// An absolute URL, as it was written.
pub(super) fn parse(text: &str) -> Result<Uri, Error> {
    let url: Uri = text.parse().map_err(|error| no_url(text, error))?;
    is_secure(&url).map_err(|error| no_url(text, error))?;
    Ok(url)
}

fn no_url(text: impl AsRef<str>, error: impl Into<BoxError>) -> Error {
    Error::config(format!("cannot fetch from {:?}", text.as_ref())).because(error)
}

pub(super) fn trusting(path: &Path) -> Result<Client, Error> {
    Client::trusting_file(path).map_err(|error| {
        Error::config(format!("cannot trust the certificates in {}", path.display())).because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_beside_the_binary() {
        for (url, signature) in [
            ("https://a/app", "https://a/app.minisig"),
            ("http://a:8/dir/app?token=1", "http://a:8/dir/app.minisig?token=1"),
        ] {
            assert_eq!(Http::new(url).unwrap().signature.to_string(), signature);
        }
        for url in ["", "app", "/app", "ftp://a/app", "http://a b/"] {
            assert!(Http::new(url).unwrap_err().is_config(), "{url:?}");
        }
        let http = Http::new("https://a/app").unwrap();
        assert!(http.clone().header("a b", "c").unwrap_err().is_config());
        assert!(http.clone().header("a", "b\n").unwrap_err().is_config());
        assert!(!format!("{:?}", http.header("a", "hunter2").unwrap()).contains("hunter2"));
    }
}
