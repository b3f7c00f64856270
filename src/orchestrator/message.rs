//! What the master and a worker say to each other. Unknown messages and unknown fields are ignored,
//! so that either side may be newer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::server::{CutRequest, Survey};

/// Changes when an old and a new process could no longer understand each other.
pub(crate) const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ToMaster {
    /// The first message.
    Hello {
        version: u32,
        crate_version: String,
    },
    /// Asks for the `nth` socket that listens on an address (several may be port 0).
    Listen {
        address: String,
        nth: u32,
    },
    /// Asks for every socket that the master was started with.
    Inherited,
    /// Asks for the descriptor that the application keeps under a name.
    Fetch {
        name: String,
    },
    /// Keep the descriptor that comes with this.
    Keep {
        name: String,
    },
    /// It accepts connections.
    Ready {
        /// It asks itself whether it is well, and will say `Healthy` or `Unhealthy`.
        #[serde(default)]
        examines: bool,
        /// Where.
        #[serde(default)]
        listeners: Vec<Open>,
    },
    /// A thread of it has panicked. It may go on.
    Panicked {
        message: String,
    },
    /// Told to pause, it accepts no more connections.
    Paused,
    /// Its `on_retire` hooks have run.
    Retired,
    /// It has found itself to be well until shortly before the end of its trial.
    Healthy,
    /// It has found itself not to be well.
    Unhealthy {
        reason: String,
    },
    /// It cannot become ready, and why.
    Failed {
        reason: String,
    },
    /// The answer to a ping.
    Status {
        in_flight: usize,
        connections: usize,
        #[serde(default)]
        survey: Survey,
    },
    /// A handler asks for a new generation, or for the end.
    Reload,
    ReloadUntried,
    Rollback,
    /// And asks for a look for the next version.
    CheckForUpgrade,
    Stop,
    /// Everything has ended but for these, and those of further messages like this one.
    Drained {
        cut: Vec<CutRequest>,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ToWorker {
    /// The answer to hello.
    Welcome {
        version: u32,
        generation: u64,
    },
    /// The sockets asked for; they come with the message.
    Listeners {
        /// Further ones come with another message.
        #[serde(default)]
        more: bool,
    },
    /// The answer to fetch; the descriptor comes with it, if there is one.
    Kept {
        name: String,
    },
    /// There is no such socket, and why.
    Refused {
        reason: String,
    },
    /// Stop accepting, keep everything else.
    Pause {
        /// Listeners that the one on trial has not asked for: go on there.
        #[serde(default)]
        alone: Vec<String>,
    },
    Resume,
    /// The generation before it has retired.
    Active,
    /// Take connections over from the worker at the other end of the descriptor.
    Adopt,
    /// Come to an end. A descriptor leads to the worker that takes connections over.
    Drain(DrainOrder),
    /// End now.
    Cut,
    Ping,
    #[serde(other)]
    Unknown,
}

/// A listener of a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Open {
    /// What it is bound to, as `Address` writes it.
    pub(crate) address: String,
    pub(crate) tls: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DrainOrder {
    /// Whether another worker accepts on the same sockets.
    pub(crate) successor: bool,
    /// But not on these: nobody else takes what waits there.
    #[serde(default)]
    pub(crate) alone: Vec<String>,
    /// Keep accepting for this long, already not ready.
    pub(crate) delay: Duration,
    /// How long a connection with nothing in flight may wait for one more request.
    pub(crate) idle_grace: Duration,
    /// After the delay: until everything has ended.
    pub(crate) timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_messages_and_fields_are_ignored() {
        let parse = |text| serde_json::from_str::<ToWorker>(text).unwrap();
        assert_eq!(parse(r#"{"type":"dance","with":[1,2]}"#), ToWorker::Unknown);
        assert_eq!(parse(r#"{"type":"ping","new":true}"#), ToWorker::Ping);
        assert_eq!(parse(r#"{"type":"pause"}"#), ToWorker::Pause { alone: Vec::new() });
        assert_eq!(parse(r#"{"type":"listeners"}"#), ToWorker::Listeners { more: false });
        let welcome = r#"{"type":"welcome","version":1,"generation":3,"colour":"red"}"#;
        assert_eq!(parse(welcome), ToWorker::Welcome { version: 1, generation: 3 });
        assert!(serde_json::from_str::<ToWorker>(r#"{"type":"welcome"}"#).is_err());

        let status = r#"{"type":"status","in_flight":2,"connections":3}"#;
        let (in_flight, connections, survey) = (2, 3, Survey::default());
        let status: ToMaster = serde_json::from_str(status).unwrap();
        assert_eq!(status, ToMaster::Status { in_flight, connections, survey });
    }
}
