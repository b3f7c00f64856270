//! What can be chosen about a cache, apart from the rules of the RFC.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::{Extensions, Uri, request, response};

use super::policy::Rules;

type RequestPredicate = Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>;
type ResponsePredicate = Arc<dyn Fn(&response::Parts) -> bool + Send + Sync>;
type OriginalUri = Arc<dyn Fn(&Extensions) -> Option<&Uri> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) rules: Rules,
    pub(crate) max_body_size: usize,
    pub(crate) max_variants: usize,
    pub(crate) max_ranges: usize,
    pub(crate) collapse: bool,
    pub(crate) collapse_timeout: Duration,
    pub(crate) pass_for: Duration,
    pub(crate) abandon_after: Duration,
    pub(crate) retention: Duration,
    pub(crate) make_etag: bool,
    pub(crate) ignore_host: bool,
    pub(crate) status_name: Option<Arc<str>>,
    pub(crate) status_key: bool,
    pub(crate) tag_header: Option<HeaderName>,
    pub(crate) remove_targeted: bool,
    pub(crate) skip_request: Option<RequestPredicate>,
    pub(crate) skip_response: Option<ResponsePredicate>,
    pub(crate) original_uri: Option<OriginalUri>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rules: Rules::explicit(),
            max_body_size: 2 * 1024 * 1024,
            max_variants: 32,
            max_ranges: 16,
            collapse: true,
            collapse_timeout: Duration::from_secs(10),
            pass_for: Duration::from_secs(2),
            abandon_after: Duration::from_secs(30),
            retention: Duration::from_secs(600),
            make_etag: true,
            ignore_host: false,
            status_name: Some(Arc::from("graceful")),
            status_key: false,
            tag_header: Some(HeaderName::from_static("cache-tag")),
            remove_targeted: false,
            skip_request: None,
            skip_response: None,
            original_uri: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("rules", &self.rules)
            .field("max_body_size", &self.max_body_size)
            .field("max_variants", &self.max_variants)
            .field("collapse", &self.collapse)
            .finish_non_exhaustive()
    }
}
