use std::{any::Any, borrow::Cow, fmt, io};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a server could not start, or how it ended.
///
/// Opaque: ask it with the `is_…` methods. `Display` says what was being done, the cause is in
/// [`source`](std::error::Error::source), and `Debug` prints both on one line, as a `main` that
/// returns the error does. The texts may change from one version to the next.
pub struct Error {
    kind: Kind,
    doing: Cow<'static, str>,
    source: Option<BoxError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something that the user asked for cannot be.
    Config,
    /// An address cannot be bound.
    Bind,
    /// An inherited socket is not what was promised.
    Inherited,
    /// A certificate or key cannot be used.
    #[cfg(feature = "tls")]
    Tls,
    /// The application could not be built.
    App,
    /// A worker could not be started, or ended before it was ready.
    Worker,
    /// Requests were cut at the deadline of a drain.
    Cut,
    /// A reload did not succeed.
    Reload,
    /// This process has no master to ask.
    NoMaster,
    /// The operating system failed us.
    Io,
}

impl Error {
    pub(crate) fn new(kind: Kind, doing: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, doing: doing.into(), source: None }
    }

    pub(crate) fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn io(doing: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        Self::new(Kind::Io, doing).because(source)
    }

    pub(crate) fn config(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Config, what)
    }

    /// Whether the configuration is at fault: an address that does not parse, a signal that cannot
    /// be handled, options that contradict each other.
    pub fn is_config(&self) -> bool {
        self.kind == Kind::Config
    }

    /// Whether an address could not be bound: in a single process, in a worker, and of what the master
    /// itself opens. That a worker could not bind one is [`is_worker`](Self::is_worker) to its master,
    /// with this error in its text.
    pub fn is_bind(&self) -> bool {
        self.kind == Kind::Bind
    }

    /// Whether a socket inherited from the supervisor is not a listening stream socket.
    pub fn is_inherited(&self) -> bool {
        self.kind == Kind::Inherited
    }

    /// Whether a certificate or key cannot be read or used, or the two do not belong together. In a
    /// worker: its master has [`is_worker`](Self::is_worker), with this error in its text.
    #[cfg(feature = "tls")]
    pub fn is_tls(&self) -> bool {
        self.kind == Kind::Tls
    }

    /// Whether the closure given to `serve_with` failed. In a worker or a single process: to the master
    /// it is [`is_worker`](Self::is_worker), with this error in its text.
    pub fn is_app(&self) -> bool {
        self.kind == Kind::App
    }

    /// Whether a worker could not be started, or workers kept dying. The text has what the last one said
    /// of its end; as it is the same program, both print what they return from `main`.
    pub fn is_worker(&self) -> bool {
        self.kind == Kind::Worker
    }

    /// Whether the server stopped as asked but had to cut requests at its deadline.
    pub fn is_cut(&self) -> bool {
        self.kind == Kind::Cut
    }

    /// Whether a reload failed; the server goes on as before.
    pub fn is_reload(&self) -> bool {
        self.kind == Kind::Reload
    }

    /// Whether the operating system refused something else, such as to write the PID file.
    pub fn is_io(&self) -> bool {
        self.kind == Kind::Io
    }

    /// Whether a reload was asked of a process that runs without a master.
    pub fn is_no_master(&self) -> bool {
        self.kind == Kind::NoMaster
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

/// Prints the text and its causes: it is what `fn main() -> Result<(), graceful::Error>` shows.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// What a panic said, if that was text.
pub(crate) fn words(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debug_text_names_each_cause_once() {
        let inner = Error::io("cannot open a.sock", io::Error::from(io::ErrorKind::NotFound));
        let error = Error::new(Kind::Bind, "cannot bind unix:a.sock").because(inner);
        assert!(error.is_bind() && !error.is_config());
        assert_eq!(error.to_string(), "cannot bind unix:a.sock");
        assert_eq!(
            format!("{error:?}"),
            "cannot bind unix:a.sock: cannot open a.sock: entity not found"
        );
    }
}
