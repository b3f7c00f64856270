use std::{future::pending, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{master::Input, message::ToMaster, state::Id};
use crate::process::{child::Child, wire::Reader};

/// How long a worker that has closed its wire may take to end by itself, so that its exit status
/// can tell why.
const WIRE_PAUSE: Duration = Duration::from_millis(500);
/// How long to wait for the last messages of a worker that has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What the master wants of the task that attends a worker.
#[derive(Debug)]
pub(super) enum Order {
    /// End the worker with SIGKILL.
    Kill,
    /// Give back what is needed to attend it from elsewhere, and end. Only a worker that can still
    /// talk is given back.
    Release(oneshot::Sender<(Child, Reader)>),
}

/// Waits for a worker's messages and for its end, and reaps it.
pub(super) async fn attend(
    id: Id,
    mut child: Child,
    mut reader: Reader,
    mut orders: mpsc::UnboundedReceiver<Order>,
    inputs: mpsc::UnboundedSender<Input>,
) {
    // It fails when the loop is gone: when the master leaves, which it does after the last worker.
    let tell = |input| drop(inputs.send(input));
    let mut is_open = true;
    // The wire has ended: when to say so, and why it has.
    let mut silent: Option<(Instant, Option<String>)> = None;
    let status = loop {
        let silence = silent.as_ref().map(|(at, _)| *at);
        tokio::select! {
            status = child.wait() => break status,
            Some(order) = orders.recv() => match order {
                Order::Kill => child.kill(),
                Order::Release(taker) if is_open => {
                    if let Err((back, again)) = taker.send((child, reader)) {
                        // Who asked has stopped waiting.
                        (child, reader) = (back, again);
                    } else {
                        return;
                    }
                }
                Order::Release(_) => {}
            },
            message = reader.receive::<ToMaster>(), if is_open => match message {
                Ok(Some((message, fds))) => tell(Input::Message(id, message, fds)),
                end => {
                    is_open = false;
                    let why = end.err();
                    let why = why.map(|error| format!("it wrote garbage on the wire: {error}"));
                    silent = Some((Instant::now() + WIRE_PAUSE, why));
                }
            },
            () = until(silence) => {
                tell(Input::WireEnded(id, silent.take().and_then(|(_, why)| why)));
            }
        }
    };
    // What it sent before it ended is still to be read; a forked copy may hold the wire open.
    let last_words = async {
        while let Ok(Some((message, fds))) = reader.receive::<ToMaster>().await {
            tell(Input::Message(id, message, fds));
        }
    };
    if is_open {
        let _ = timeout(LAST_WORDS, last_words).await;
    }
    tell(Input::Exited(id, status));
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
