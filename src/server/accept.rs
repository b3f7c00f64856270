use std::{future::poll_fn, io, pin::pin, sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use http::{Request, Response};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::sleep,
};
use tower_service::Service;

use super::{Context, connection};
use crate::{
    BoxError,
    drain::DrainGuard,
    listener::{AcceptError, EXHAUSTED_PAUSE, Listener, Peer, Stream},
    tls::Acceptor,
};

/// An application that serves one connection after the other, whatever its type is.
pub(crate) trait App: Send {
    /// Starts a task that serves the connection to its end.
    fn spawn(&self, accepted: Accepted, context: Arc<Context>);

    /// The same application for one more listener.
    fn another(&self) -> Box<dyn App>;
}

/// A connection that this process has accepted, or taken over.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    /// The address of the listener that accepted it.
    pub(crate) listener: Arc<str>,
    /// What was read from it already.
    pub(crate) bytes: Bytes,
    /// Whether it has served a request, in another process.
    pub(crate) begun: bool,
    pub(crate) guard: DrainGuard,
    /// Its place among the connections that may be served at once.
    pub(crate) seat: Option<OwnedSemaphorePermit>,
    /// The handshake is still to be made.
    pub(crate) tls: Option<Acceptor>,
}

/// A tower service as an [`App`].
#[derive(Debug)]
pub(crate) struct HttpApp<S>(pub(crate) S);

impl<S, B> App for HttpApp<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn spawn(&self, accepted: Accepted, context: Arc<Context>) {
        tokio::spawn(connection::serve(self.0.clone(), accepted, context));
    }

    fn another(&self) -> Box<dyn App> {
        Box::new(Self(self.0.clone()))
    }
}

/// What an accept loop is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Accepting {
    Yes,
    /// A successor is on trial; the listener stays open. On these addresses it does not listen: go
    /// on there.
    Paused(Arc<[String]>),
    /// A successor accepts: close the listener. On these addresses it does not: there it is the last.
    Handed(Arc<[String]>),
    /// Nobody will: take what waits in the backlog, then close the listener.
    Last,
}

/// Accepts connections until told to stop.
pub(crate) async fn accept(
    listener: Listener,
    app: Box<dyn App>,
    context: Arc<Context>,
    mut accepting: watch::Receiver<Accepting>,
) {
    loop {
        let now = accepting.borrow_and_update().clone();
        let is_alone =
            |alone: &[String]| alone.iter().any(|address| *address == *listener.address());
        let _accepting = match now {
            Accepting::Yes => Some(context.accepting.read().await),
            // Who waits for the pause does not wait for this one.
            Accepting::Paused(alone) if is_alone(&alone) => None,
            Accepting::Paused(_) => {
                if accepting.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Accepting::Handed(alone) if !is_alone(&alone) => return,
            Accepting::Handed(_) | Accepting::Last => {
                let Some(pause) = take_backlog(&listener, &*app, &context) else { return };
                tokio::select! {
                    changed = accepting.changed() => if changed.is_err() { return },
                    () = sleep(pause) => {}
                }
                continue;
            }
        };
        let mut changed = pin!(accepting.changed());
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut changed => break,
                accepted = poll_fn(|cx| listener.poll_accept(cx)) => accepted,
            };
            let (mut told, mut seat) = (false, None);
            if let (Some(seats), Ok(_)) = (&context.seats, &accepted) {
                tokio::select! {
                    biased;
                    // What was accepted is served all the same.
                    _ = &mut changed => told = true,
                    free = seats.clone().acquire_owned() => seat = free.ok(),
                }
            }
            let pause = spawn(&listener, &*app, &context, accepted, seat);
            if told {
                break;
            }
            if let Some(pause) = pause {
                tokio::select! {
                    _ = &mut changed => break,
                    () = sleep(pause) => {}
                }
            }
        }
    }
}

/// Serves an accepted connection; answers how long to wait after an error.
fn spawn(
    listener: &Listener,
    app: &dyn App,
    context: &Arc<Context>,
    accepted: io::Result<(Stream, Peer)>,
    seat: Option<OwnedSemaphorePermit>,
) -> Option<Duration> {
    match accepted {
        Ok((stream, peer)) => {
            // Counted before it is spawned: a drain that ends in between would not wait for it.
            let guard = context.connections.guard();
            let tls = listener.tls().cloned();
            let (listener, bytes) = (listener.name(), Bytes::new());
            let begun = false;
            let accepted = Accepted { stream, peer, listener, bytes, begun, guard, seat, tls };
            app.spawn(accepted, context.clone());
            None
        }
        Err(error) => match AcceptError::from(&error) {
            AcceptError::Connection => None,
            AcceptError::Exhausted | AcceptError::Listener => {
                tracing::error!(listener = listener.address(), %error, "cannot accept");
                Some(EXHAUSTED_PAUSE)
            }
        },
    }
}

/// The kernel resets what is still in the backlog when the last copy of the listener is closed. Answers how
/// long to wait where there may be more for which no descriptor is left.
fn take_backlog(listener: &Listener, app: &dyn App, context: &Arc<Context>) -> Option<Duration> {
    loop {
        let accepted = match listener.accept_now() {
            Ok(accepted) => Ok(accepted?),
            Err(error) if matches!(AcceptError::from(&error), AcceptError::Listener) => {
                return None;
            }
            Err(error) => Err(error),
        };
        let pause = spawn(listener, app, context, accepted, None);
        if pause.is_some() {
            return pause;
        }
    }
}
