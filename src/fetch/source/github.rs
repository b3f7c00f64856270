use std::{env, path::Path};

use http::{
    HeaderMap, HeaderValue, Uri,
    header::{ACCEPT, AUTHORIZATION},
};
use serde::Deserialize;

use super::{
    client::Client,
    http::{parse, trusting},
    transfer::Transfer,
};
use crate::{
    BoxError,
    error::Error,
    fetch::{Fetcher, Query, Release},
};

/// A release may have a hundred files.
const MAX_RELEASE: usize = 4 << 20;
const ASSET: HeaderValue = HeaderValue::from_static("application/octet-stream");
const API: HeaderValue = HeaderValue::from_static("application/vnd.github+json");
/// What stands beside a binary, or around it.
const OTHERS: [&str; 12] = [
    ".minisig",
    ".sig",
    ".asc",
    ".sha256",
    ".sha256sum",
    ".gz",
    ".xz",
    ".zst",
    ".bz2",
    ".zip",
    ".deb",
    ".rpm",
];

/// The latest release of a GitHub repository.
///
/// Of its files, the one whose name contains the target triple of this program, such as
/// `app-x86_64-unknown-linux-gnu`; it must be the binary itself, not an archive, and its signature the
/// file with `.minisig` behind that name. Drafts and pre-releases are not the latest release.
///
/// # Example
///
/// ```
/// use graceful::fetch::{GitHubRelease, Upgrade};
///
/// # fn main() -> Result<(), graceful::Error> {
/// let upgrade = Upgrade::from(GitHubRelease::new("owner", "app")?)
///     .minisign("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3")
///     .version(env!("CARGO_PKG_VERSION"));
/// # drop(upgrade);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct GitHubRelease {
    client: Client,
    base: String,
    path: String,
    target: String,
    token: String,
}

impl GitHubRelease {
    /// The latest release of `owner/repository`. The token of a private one, which also raises the
    /// limit of 60 requests per hour, is read from `GITHUB_TOKEN` at each look.
    ///
    /// # Errors
    ///
    /// When there can be no such repository.
    pub fn new(owner: &str, repository: &str) -> Result<Self, Error> {
        let path = format!("/repos/{owner}/{repository}/releases/latest");
        let this = Self {
            client: Client::new(),
            base: "https://api.github.com".to_owned(),
            path,
            target: triple(),
            token: "GITHUB_TOKEN".to_owned(),
        };
        let names = [owner, repository];
        if names.iter().any(|name| name.is_empty() || name.contains(['/', '?', '#'])) {
            return Err(Error::config(format!("{owner}/{repository} is no repository")));
        }
        parse(&this.url())?;
        Ok(this)
    }

    /// Another server with the same interface, such as `https://github.example.com/api/v3`.
    ///
    /// # Errors
    ///
    /// When that is no HTTP or HTTPS URL.
    pub fn base_url(mut self, url: &str) -> Result<Self, Error> {
        url.trim_end_matches('/').clone_into(&mut self.base);
        parse(&self.url())?;
        Ok(self)
    }

    /// What the name of the file contains. Default: the target triple of this program.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = target.into();
        self
    }

    /// The environment variable in which the token is. Default: `GITHUB_TOKEN`.
    pub fn token_env(mut self, name: impl Into<String>) -> Self {
        self.token = name.into();
        self
    }

    /// Trusts the certificates in this PEM file, and no others: for an authority of one's own.
    ///
    /// # Errors
    ///
    /// When it cannot be read or has none.
    pub fn root_certificates(mut self, path: impl AsRef<Path>) -> Result<Self, Error> {
        self.client = trusting(path.as_ref())?;
        Ok(self)
    }

    fn url(&self) -> String {
        format!("{}{}", self.base, self.path)
    }

    fn transfer(&self, url: Uri, accept: HeaderValue) -> Result<Transfer, BoxError> {
        let headers = [(ACCEPT, accept)].into_iter().collect();
        let mut secrets = HeaderMap::new();
        if let Some(token) = env::var(&self.token).ok().filter(|token| !token.is_empty()) {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
            value.set_sensitive(true);
            secrets.insert(AUTHORIZATION, value);
        }
        Ok(Transfer { client: self.client.clone(), url, headers, secrets, redirects: 5 })
    }
}

impl Fetcher for GitHubRelease {
    async fn fetch(&self, query: Query) -> Result<Option<Release>, BoxError> {
        // No release yet is nothing new.
        let Some(text) = self.transfer(self.url().parse()?, API)?.text(MAX_RELEASE).await? else {
            return Ok(None);
        };
        let latest: Latest = serde_json::from_str(&text)?;
        let asset = latest.asset(&self.target)?;
        let tag = format!("github {} {}", asset.id, asset.updated_at);
        if query.seen() == Some(tag.as_str()) {
            return Ok(None);
        }
        let download = |asset: &Asset| self.transfer(asset.url.parse()?, ASSET);
        let signature = match latest.find(&format!("{}.minisig", asset.name)) {
            Some(asset) if query.wants_signature() => download(asset)?.signature().await?,
            _ => None,
        };
        let release = download(asset)?.release(None).await?;
        let digest = asset.digest.as_deref().and_then(|digest| digest.strip_prefix("sha256:"));
        Ok(release
            .map(|release| release.tag(tag).signature(signature).sha256(digest.map(str::to_owned))))
    }
}

#[derive(Debug, Deserialize)]
struct Latest {
    tag_name: String,
    assets: Vec<Asset>,
}

#[derive(Debug, Deserialize)]
struct Asset {
    id: u64,
    /// Where the interface has it; a private one is nowhere else.
    url: String,
    name: String,
    updated_at: String,
    /// Older releases have none.
    #[serde(default)]
    digest: Option<String>,
}

impl Latest {
    fn asset(&self, target: &str) -> Result<&Asset, BoxError> {
        let fits = |asset: &&Asset| {
            asset.name.contains(target) && !OTHERS.iter().any(|other| asset.name.ends_with(other))
        };
        let mut found = self.assets.iter().filter(fits);
        match (found.next(), found.next()) {
            (Some(asset), None) => Ok(asset),
            (None, _) => {
                Err(format!("release {} has no binary for {target}", self.tag_name).into())
            }
            (Some(one), Some(other)) => {
                let (one, other) = (&one.name, &other.name);
                Err(format!("release {} has {one} and {other} for {target}", self.tag_name).into())
            }
        }
    }

    fn find(&self, name: &str) -> Option<&Asset> {
        self.assets.iter().find(|asset| asset.name == name)
    }
}

/// The target triple of this program, as far as the compiler tells a program.
fn triple() -> String {
    let arch = env::consts::ARCH;
    let environment = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let suffix = if cfg!(target_arch = "arm") { "eabihf" } else { "" };
    match env::consts::OS {
        "linux" => format!("{arch}-unknown-linux-{environment}{suffix}"),
        "macos" => format!("{arch}-apple-darwin"),
        other => format!("{arch}-unknown-{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latest(names: &[&str]) -> Latest {
        let asset = |(id, name): (usize, &&str)| Asset {
            id: id as u64,
            url: format!("http://localhost/assets/{id}"),
            name: (*name).to_owned(),
            updated_at: "2026-01-01T00:00:00Z".to_owned(),
            digest: None,
        };
        let assets = names.iter().enumerate().map(asset).collect();
        Latest { tag_name: "v2.0.0".to_owned(), assets }
    }

    #[test]
    fn the_binary_for_this_target_is_found_among_the_others() {
        let names =
            ["app-x86_64-apple-darwin", "app-T", "app-T.minisig", "app-T.tar.gz", "app-T.sha256"];
        assert_eq!(latest(&names).asset("T").unwrap().name, "app-T");
        let missing = latest(&names).asset("riscv").unwrap_err().to_string();
        assert!(missing.contains("v2.0.0 has no binary for riscv"), "{missing}");
        assert!(latest(&["app-T", "tool-T"]).asset("T").is_err(), "which one?");
    }

    #[test]
    fn a_repository_is_two_names() {
        let new = |owner, repository| GitHubRelease::new(owner, repository);
        assert_eq!(
            new("a", "b").unwrap().url(),
            "https://api.github.com/repos/a/b/releases/latest"
        );
        assert!(new("", "b").unwrap_err().is_config());
        assert!(new("a/b", "c").unwrap_err().is_config());
        assert!(new("a", "b").unwrap().base_url("localhost").unwrap_err().is_config());
    }
}
