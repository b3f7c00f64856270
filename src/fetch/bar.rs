//! What a person in front of a terminal sees of a download.

use super::upgrade::Upgrade;

#[cfg(feature = "progress")]
pub(super) struct Bar(indicatif::ProgressBar);

#[cfg(feature = "progress")]
impl Bar {
    /// Shows nothing unless it was asked for and standard error is a terminal.
    pub(super) fn new(upgrade: &Upgrade, length: Option<u64>) -> Self {
        use indicatif::{ProgressBar, ProgressStyle};
        if !upgrade.progress_bar {
            return Self(ProgressBar::hidden());
        }
        let bar = match length {
            Some(length) => ProgressBar::new(length),
            None => ProgressBar::no_length(),
        };
        let known = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let unknown = "{spinner} {bytes} {bytes_per_sec}";
        let template = if length.is_some() { known } else { unknown };
        let style = ProgressStyle::with_template(template);
        Self(bar.with_style(style.expect("the template is fixed and right")))
    }

    pub(super) fn set(&self, received: u64) {
        self.0.set_position(received);
    }
}

#[cfg(feature = "progress")]
impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(not(feature = "progress"))]
pub(super) struct Bar;

#[cfg(not(feature = "progress"))]
impl Bar {
    pub(super) fn new(_: &Upgrade, _: Option<u64>) -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "the twin of the one that draws")]
    pub(super) fn set(&self, _: u64) {}
}
