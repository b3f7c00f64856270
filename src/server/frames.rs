use std::{future::Future, pin::Pin, task::Context, time::Duration};

use tokio::time::{Sleep, sleep};

/// Length, type, flags and stream (RFC 9113, section 4.1).
const HEAD: usize = 9;
/// The answer to a ping, head and payload (section 6.7).
const PONG: usize = HEAD + 8;
/// Answers to pings that are kept back at most; hyper has two sorts under way.
const MAX_HELD: usize = 4 * PONG;

/// Follows the frames of an HTTP/2 client, so that the second goodbye does not come too early.
///
/// A client that has read the first GOAWAY begins no stream, but may have some in its queue: the h2 crate, and so
/// hyper and all that is made of it, writes the answer to our ping before those. hyper takes that answer as the
/// proof that nothing more will come, and refuses what comes. So the answer is kept from it for a moment.
#[derive(Debug)]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// How much of the head was read.
    known: usize,
    /// How much of the payload is yet to come.
    rest: usize,
    held: Vec<u8>,
    timer: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

impl Frames {
    /// Of a client that has yet to send its preface, of this length.
    pub(super) fn after(preface: usize) -> Self {
        let (head, known, held, timer, is_over) = Default::default();
        Self { head, known, rest: preface, held, timer, is_over }
    }

    /// What has been kept back for long enough, to be read in between two frames.
    pub(super) fn due(&mut self, cx: &mut Context<'_>) -> Option<Vec<u8>> {
        let timer = self.timer.as_mut()?;
        if timer.as_mut().poll(cx).is_pending() || self.rest > 0 || self.known > 0 {
            return None;
        }
        (self.timer, self.is_over) = (None, true);
        Some(std::mem::take(&mut self.held))
    }

    /// Takes note of bytes that were read; answers how many are left when answers to pings are taken out of
    /// them, for so long. One that has not come in one piece stays.
    pub(super) fn pass(&mut self, bytes: &mut [u8], hold: Option<Duration>) -> usize {
        let (mut at, mut end) = (0, bytes.len());
        while at < end {
            if self.rest > 0 {
                let now = self.rest.min(end - at);
                self.rest -= now;
                at += now;
                continue;
            }
            if let (0, false, Some(hold)) = (self.known, self.is_over, hold)
                && let Some(frame) = bytes[at..end].first_chunk::<PONG>()
                && is_pong(frame)
                && self.held.len() < MAX_HELD
            {
                self.held.extend(frame);
                self.timer.get_or_insert_with(|| Box::pin(sleep(hold)));
                bytes.copy_within(at + PONG..end, at);
                end -= PONG;
                continue;
            }
            let now = (HEAD - self.known).min(end - at);
            self.head[self.known..self.known + now].copy_from_slice(&bytes[at..at + now]);
            self.known += now;
            at += now;
            if self.known == HEAD {
                let [a, b, c, ..] = self.head;
                self.rest = u32::from_be_bytes([0, a, b, c]) as usize;
                self.known = 0;
            }
        }
        end
    }
}

fn is_pong(frame: &[u8; PONG]) -> bool {
    const PING: u8 = 6;
    const ACK: u8 = 1;
    let [0, 0, 8, PING, flags, ..] = frame else { return false };
    flags & ACK != 0
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    const HOLD: Option<Duration> = Some(Duration::from_millis(500));

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 0], payload].concat()
    }

    fn passed(frames: &mut Frames, mut bytes: Vec<u8>, hold: Option<Duration>) -> Vec<u8> {
        let length = frames.pass(&mut bytes, hold);
        bytes.truncate(length);
        bytes
    }

    async fn due(frames: &mut Frames) -> Option<Vec<u8>> {
        std::future::poll_fn(|cx| Poll::Ready(frames.due(cx))).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_a_ping_comes_later_and_between_frames() {
        let (pong, data) = (frame(6, 1, &[7; 8]), frame(0, 0, &[1, 2, 3]));
        let mut frames = Frames::after(3);
        // Not one: no goodbye was said, a ping of the client, a payload that looks like one.
        let ping = frame(6, 0, &[7; 8]);
        let start = [&b"abc"[..], &pong, &data].concat();
        assert_eq!(passed(&mut frames, start.clone(), None), start);
        let others = [ping, frame(0, 0, &pong)].concat();
        assert_eq!(passed(&mut frames, others.clone(), HOLD), others);

        let mixed = [&data[..], &pong, &data, &data[..5]].concat();
        let left = [&data[..], &data, &data[..5]].concat();
        assert_eq!(passed(&mut frames, mixed, HOLD), left);
        assert_eq!(due(&mut frames).await, None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(due(&mut frames).await, None, "in a frame");
        assert_eq!(passed(&mut frames, data[5..].to_vec(), HOLD), &data[5..]);
        assert_eq!(due(&mut frames).await, Some(pong.clone()));
        // Once is enough.
        assert_eq!(passed(&mut frames, pong.clone(), HOLD), pong);
        assert_eq!(due(&mut frames).await, None);
    }

    #[test]
    fn frames_in_any_pieces_are_left_as_they_are() {
        let all = [frame(6, 1, &[7; 8]), frame(0, 0, &[1; 200]), frame(4, 0, &[])].concat();
        for size in 1..all.len() {
            let mut frames = Frames::after(0);
            for piece in all.chunks(size) {
                assert_eq!(passed(&mut frames, piece.to_vec(), None), piece);
            }
            assert_eq!((frames.known, frames.rest), (0, 0));
        }
    }
}
