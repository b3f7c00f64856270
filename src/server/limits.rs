use std::time::Duration;

/// What one client may take of this process; the methods of `Serve` document each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) header_timeout: Option<Duration>,
    pub(crate) keep_alive_timeout: Option<Duration>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) max_headers: usize,
    pub(crate) max_header_size: Option<usize>,
    pub(crate) max_streams: u32,
    pub(crate) ping_interval: Option<Duration>,
}

/// As many as hyper has room for without an allocation.
pub(super) const HEADERS: usize = 100;
/// How long the answer to a ping may take.
pub(super) const PONG_TIMEOUT: Duration = Duration::from_secs(20);

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Some(Duration::from_secs(30)),
            keep_alive_timeout: Some(Duration::from_secs(75)),
            max_connections: None,
            max_headers: HEADERS,
            max_header_size: None,
            max_streams: 200,
            ping_interval: Some(Duration::from_secs(30)),
        }
    }
}
