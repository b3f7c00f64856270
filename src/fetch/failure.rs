use std::{any::Any, fmt, io, path::PathBuf, time::Duration};

use super::format;
use crate::{BoxError, error, orchestrator::CANNOT_RUN};

/// Why the next version was not taken: one variant for each way in which a step can fail.
#[derive(Debug)]
pub(super) enum Failure {
    /// The source could not be asked.
    Source(BoxError),
    /// The stream has failed.
    Interrupted {
        received: u64,
        cause: BoxError,
    },
    /// The stream has ended too early or too late.
    Length {
        received: u64,
        expected: u64,
    },
    TooLarge {
        limit: u64,
    },
    TooSlow {
        limit: Duration,
    },
    NoProgram(&'static str),
    OtherMachine {
        new: (u8, u8, u16),
        present: (u8, u8, u16),
    },
    NoSignature,
    GarbledSignature(String),
    OtherKey,
    WrongSignature,
    WrongDigest {
        expected: String,
        actual: String,
    },
    Tried {
        digest: String,
    },
    /// The same was refused for this reason before.
    Refused {
        why: String,
    },
    NoVersion,
    GarbledVersion(String),
    Downgrade {
        from: String,
        to: String,
    },
    Check(String),
    Hook(BoxError),
    HookTooSlow {
        limit: Duration,
    },
    /// Another process upgrades the same file.
    Busy(PathBuf),
    Planted(PathBuf),
    NoLink(PathBuf),
    /// The file system has failed us.
    File {
        doing: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    /// The new worker did not pass its trial; `blamed` says whether that was the binary's fault.
    Trial {
        why: String,
        blamed: bool,
    },
    /// The previous binary could not be put back after that.
    Stuck {
        why: String,
        cause: Box<Failure>,
    },
    Panicked,
    /// The user's code has panicked.
    Broken(String),
}

impl Failure {
    /// What a panic said.
    pub(super) fn broken(panic: &(dyn Any + Send)) -> Self {
        Self::Broken(error::words(panic).unwrap_or("without a word").to_owned())
    }

    /// Whether the same release would fail again, whatever changes around it.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::NoProgram(_)
            | Self::OtherMachine { .. }
            | Self::Tried { .. }
            | Self::NoVersion
            | Self::GarbledVersion(_)
            | Self::Downgrade { .. }
            | Self::TooLarge { .. } => true,
            Self::Trial { blamed, .. } => *blamed,
            _ => false,
        }
    }

    /// Whether the same release would fail again unless something around it changes: a signature that
    /// is published later is another release, but what a check run lacks may be there some day.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::GarbledSignature(_)
            | Self::OtherKey
            | Self::WrongSignature
            | Self::WrongDigest { .. } => true,
            Self::Check(why) => !why.starts_with(CANNOT_RUN),
            _ => false,
        }
    }

    pub(super) fn file(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { doing, path, cause }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(cause) => write!(f, "the source cannot be asked: {}", Chain(&**cause)),
            Self::Interrupted { received, cause } => {
                write!(f, "the download broke off after {received} bytes: {}", Chain(&**cause))
            }
            Self::Length { received, expected } => {
                write!(f, "the download has {received} bytes and not {expected}")
            }
            Self::TooLarge { limit } => write!(f, "the download is larger than {limit} bytes"),
            Self::TooSlow { limit } => write!(f, "the download took longer than {limit:?}"),
            Self::NoProgram(what) => write!(f, "the download is no program: {what}"),
            Self::OtherMachine { new, present } => write!(
                f,
                "the download is for another machine: {}, not {}",
                format::name(*new),
                format::name(*present)
            ),
            Self::NoSignature => f.write_str("the download comes without a signature"),
            Self::GarbledSignature(why) => write!(f, "the signature cannot be used: {why}"),
            Self::OtherKey => f.write_str("the download is signed with a key that is not trusted"),
            Self::WrongSignature => f.write_str("the signature is not that of the download"),
            Self::WrongDigest { expected, actual } => {
                write!(f, "the download has the SHA-256 {actual} and not {expected}")
            }
            Self::Tried { digest } => write!(f, "this binary has failed before: {digest}"),
            Self::Refused { why } => {
                write!(f, "refused before, and tried again only when asked to: {why}")
            }
            Self::NoVersion => f.write_str("the new binary does not say its version"),
            Self::GarbledVersion(version) => {
                write!(f, "the version of the new binary cannot be compared: {version}")
            }
            Self::Downgrade { from, to } => {
                write!(f, "version {to} is older than {from}, and no downgrade is allowed")
            }
            Self::Check(why) => write!(f, "the new binary cannot be used: {why}"),
            Self::Hook(cause) => write!(f, "refused before the upgrade: {}", Chain(&**cause)),
            Self::HookTooSlow { limit } => {
                write!(f, "the hook before the upgrade took longer than {limit:?}")
            }
            Self::Busy(path) => {
                write!(f, "another process is upgrading {} at the moment", path.display())
            }
            Self::Planted(path) => {
                write!(f, "{} is in the way, and no file of ours", path.display())
            }
            Self::NoLink(path) => {
                write!(f, "{} is no symbolic link that could be switched", path.display())
            }
            Self::File { doing, path, cause } => {
                write!(f, "cannot {doing} {}: {cause}", path.display())
            }
            Self::Trial { why, blamed: true } => {
                write!(f, "the new binary failed its trial: {why}")
            }
            Self::Trial { why, blamed: false } => {
                write!(f, "the new binary was not tried: {why}")
            }
            Self::Stuck { why, cause } => {
                write!(f, "{why}; and the file of the program is still the new one: {cause}")
            }
            Self::Panicked => f.write_str("the task that writes the file has panicked"),
            Self::Broken(text) => write!(f, "the look for an upgrade has panicked: {text}"),
        }
    }
}

impl std::error::Error for Failure {}

/// An error and its causes on one line.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
