//! What is known of the next version of the program: whether it is on its way, and how it went before.

use serde::{Deserialize, Serialize};

use super::{
    launch::CANNOT_START,
    state::{Id, STOPPING},
    status::{Outcome, RELOAD_INSTEAD, ROLLBACK_INSTEAD},
};

/// How a look for the next version has ended; the reason in words where it failed.
pub(crate) type Checked = Result<Verdict, String>;

/// A copy of what the watcher knows, as `GET /status` shows it; it outlives the program of the master.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct UpgradeStatus {
    pub(crate) step: Step,
    /// Bytes of the download that runs, or ran last.
    pub(crate) received: u64,
    pub(crate) length: Option<u64>,
    pub(crate) counts: Counts,
    pub(crate) last_check: Option<LastCheck>,
    pub(crate) last_failure: Option<LastCheck>,
    /// Looks that failed one after the other up to now.
    pub(crate) failures: u32,
    /// By what the source knows the release that was last dealt with.
    pub(crate) seen: Option<String>,
    /// What was last refused, and may only be tried again when somebody asks for it.
    pub(crate) refused: Option<Refused>,
    /// The digest of what was last put in place, and its version.
    pub(crate) installed: Option<String>,
    pub(crate) version: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// By what it is known before it is downloaded, if the source says so much.
    pub(crate) release: Option<String>,
    /// The digest of its content, if it came so far.
    pub(crate) sha256: Option<String>,
    pub(crate) why: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    #[default]
    Idle,
    Asking,
    Fetching,
    Checking,
    Installing,
    Reloading,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counts {
    pub(crate) unchanged: u64,
    pub(crate) installed: u64,
    pub(crate) upgraded: u64,
    pub(crate) failed: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastCheck {
    /// When it ended, since the Unix epoch.
    pub(crate) at: f64,
    pub(crate) took: f64,
    #[serde(flatten)]
    pub(crate) verdict: Option<Verdict>,
    pub(crate) reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The source has nothing that is not in place.
    Unchanged,
    /// In place; a reload will start it.
    Installed { sha256: String, version: Option<String> },
    /// In place, and this generation runs it.
    Upgraded { generation: Id, sha256: String, version: Option<String> },
}

impl UpgradeStatus {
    /// Notes how a look has ended.
    pub(crate) fn checked(&mut self, checked: &Checked, at: f64, took: f64) {
        let counts = &mut self.counts;
        *(match checked {
            Ok(Verdict::Unchanged) => &mut counts.unchanged,
            Ok(Verdict::Installed { .. }) => &mut counts.installed,
            Ok(Verdict::Upgraded { .. }) => &mut counts.upgraded,
            Err(_) => &mut counts.failed,
        }) += 1;
        let last = LastCheck {
            at,
            took,
            verdict: checked.as_ref().ok().cloned(),
            reason: checked.as_ref().err().cloned(),
        };
        if checked.is_err() {
            self.last_failure = Some(last.clone());
            self.failures = self.failures.saturating_add(1);
        } else {
            self.failures = 0;
        }
        self.last_check = Some(last);
        self.step = Step::Idle;
    }
}

/// Whether the outcome of a reload says that its binary is bad.
pub(crate) fn blames_the_binary(outcome: &Outcome) -> bool {
    let excused = [STOPPING, ROLLBACK_INSTEAD, RELOAD_INSTEAD];
    let blames = |why: &String| !excused.contains(&why.as_str()) && !why.starts_with(CANNOT_START);
    outcome.as_ref().err().is_some_and(blames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_was_not_tried_is_not_to_blame() {
        for why in [STOPPING, RELOAD_INSTEAD, ROLLBACK_INSTEAD, "cannot start /app: no memory"] {
            assert!(!blames_the_binary(&Err(why.to_owned())), "{why}");
        }
        assert!(!blames_the_binary(&Ok(2)));
        assert!(blames_the_binary(&Err("signal 6".to_owned())));
    }

    #[test]
    fn failures_are_counted_until_one_look_succeeds() {
        let mut status = UpgradeStatus::default();
        status.checked(&Err("no".to_owned()), 1.0, 0.5);
        status.checked(&Err("still no".to_owned()), 2.0, 0.5);
        assert_eq!((status.failures, status.counts.failed), (2, 2));
        status.checked(&Ok(Verdict::Unchanged), 3.0, 0.1);
        assert_eq!((status.failures, status.counts.unchanged), (0, 1));
        assert_eq!(status.last_failure.as_ref().unwrap().reason.as_deref(), Some("still no"));
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.contains(r#""outcome":"unchanged""#), "{text}");
        assert_eq!(serde_json::from_str::<UpgradeStatus>(&text).unwrap(), status);
        assert_eq!(serde_json::from_str::<UpgradeStatus>("{}").unwrap().counts.failed, 0);
    }
}
