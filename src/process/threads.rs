//! Keeps signals from every other thread while the program is replaced.
//!
//! The kernel gives a signal for the process to any thread that does not block it, and `execve(2)` ends
//! all threads but its caller: a signal that another one has just been given, but not yet handled, would
//! be lost. A thread's mask is its own, so each thread is asked to change it, in a handler of `SIGURG`,
//! which means nothing by default and interrupts nothing that goes on by itself (`SA_RESTART`).

use std::{
    fs, hint, io, mem, ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI32, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use nix::{errno::Errno, libc};

/// How long a thread may take to answer: as long as it may have to wait for a processor on a busy machine.
/// One that blocks `SIGURG`, too, never does.
const PATIENCE: Duration = Duration::from_millis(200);

/// The thread that is asked; negative once it has begun to answer; 0 when none is.
static ASKED: AtomicI32 = AtomicI32::new(0);
/// The signals of which its mask is to change, a bit for each: the lowest is signal 1.
static SIGNALS: AtomicU64 = AtomicU64::new(0);
/// Those of them that it is to block. In the answer: those that it has blocked before.
static BLOCKED: AtomicU64 = AtomicU64::new(0);
/// What is above serves one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// While it lives, no other thread of this process is given one of the signals.
#[derive(Debug)]
pub(crate) struct Shield {
    signals: u64,
    /// The threads, and which of the signals each had blocked by itself.
    threads: Vec<(i32, u64)>,
}

impl Shield {
    /// Returns once every handler that runs in another thread has ended, provided that
    /// [`handle_alone`] was called for its signal.
    ///
    /// # Errors
    ///
    /// When a thread does not answer that could be given one of the signals; then it is as before.
    pub(crate) fn raise(signals: impl IntoIterator<Item = i32>) -> io::Result<Self> {
        let signals = signals.into_iter().fold(0, |bits, signal| bits | bit(signal));
        let mut shield = Self { signals, threads: Vec::new() };
        let _handler = Handler::install()?;
        // A thread that has answered starts others with the same mask. One that was started before, by a
        // thread that had not answered yet, is in a later list: in the last one nobody blocks less.
        let mut is_last = false;
        while !is_last {
            is_last = true;
            for thread in others()? {
                if shield.threads.iter().any(|(known, _)| *known == thread) {
                    continue;
                }
                let blocked = match ask(thread, signals, signals)? {
                    Some(blocked) => blocked,
                    None => match mask(thread) {
                        Some(own) if own & signals == signals => signals,
                        Some(_) => {
                            let why = format!("thread {thread} does not answer");
                            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                        }
                        None => continue,
                    },
                };
                is_last &= blocked == signals;
                shield.threads.push((thread, blocked));
            }
        }
        Ok(shield)
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        let Ok(_handler) = Handler::install() else { return };
        for (thread, blocked) in self.threads.drain(..).filter(|(_, own)| *own != self.signals) {
            if !matches!(ask(thread, self.signals, blocked), Ok(Some(_))) {
                tracing::debug!(thread, "a thread has ended while signals were kept from it");
            }
        }
    }
}

/// Lets the handler of a signal end before its thread answers: a handler that has been set up by the kernel,
/// but has not run yet, would otherwise be passed over.
///
/// # Errors
///
/// When there is no such signal.
pub(crate) fn handle_alone(signal: i32) -> io::Result<()> {
    let mut action = action(signal)?;
    // SAFETY: the set is a valid one, the kernel's own.
    Errno::result(unsafe { libc::sigaddset(&raw mut action.sa_mask, libc::SIGURG) })?;
    // SAFETY: the handler stays the one that is installed; it is only interrupted less often.
    Errno::result(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })?;
    Ok(())
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What is done at a signal.
fn action(signal: i32) -> io::Result<libc::sigaction> {
    // SAFETY: all of it are numbers, and a pointer that may be null.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: `action` can be written to, and nothing is read.
    Errno::result(unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) })?;
    Ok(action)
}

/// The threads of this process but for the calling one (proc(5)).
fn others() -> io::Result<Vec<i32>> {
    let own = nix::unistd::gettid().as_raw();
    let entries = fs::read_dir("/proc/self/task")?;
    let threads = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(threads.filter(|thread| *thread != own).collect())
}

/// The signals that a thread blocks; nothing when it has ended.
fn mask(thread: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
    let line = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // The first thread stays in the list when it has ended.
    let has_ended = line("State:")?.starts_with(['Z', 'X']);
    line("SigBlk:").filter(|_| !has_ended).and_then(|mask| u64::from_str_radix(mask, 16).ok())
}

/// Has a thread change its mask. Answers what it blocked of the signals before; nothing when it does
/// not answer in time, and then its mask stays.
fn ask(thread: i32, signals: u64, blocked: u64) -> io::Result<Option<u64>> {
    SIGNALS.store(signals, SeqCst);
    BLOCKED.store(blocked, SeqCst);
    ASKED.store(thread, SeqCst);
    let process = nix::unistd::getpid().as_raw();
    // SAFETY: it only sends a signal, and `Handler` is installed.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGURG) };
    if let Err(errno) = Errno::result(sent) {
        ASKED.store(0, SeqCst);
        return if errno == Errno::ESRCH { Ok(None) } else { Err(errno.into()) };
    }
    let since = Instant::now();
    while ASKED.load(SeqCst) != 0 {
        if since.elapsed() < PATIENCE {
            std::thread::yield_now();
        } else if ASKED.compare_exchange(thread, 0, SeqCst, SeqCst).is_ok() {
            return Ok(None);
        } else {
            // It has begun.
            hint::spin_loop();
        }
    }
    Ok(Some(BLOCKED.load(SeqCst)))
}

/// The handler, for as long as somebody may be asked.
struct Handler {
    before: libc::sigaction,
    _turn: std::sync::MutexGuard<'static, ()>,
}

impl Handler {
    fn install() -> io::Result<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own = action(libc::SIGURG)?;
        own.sa_sigaction = answer as extern "C" fn(_, _, _) as usize;
        own.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        let mut before = own;
        // SAFETY: the set is a valid one, and can be written to.
        Errno::result(unsafe { libc::sigfillset(&raw mut own.sa_mask) })?;
        // SAFETY: `answer` is safe to be run at any moment, in any thread.
        Errno::result(unsafe { libc::sigaction(libc::SIGURG, &raw const own, &raw mut before) })?;
        Ok(Self { before, _turn: turn })
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // SAFETY: it is what was installed before.
        unsafe { libc::sigaction(libc::SIGURG, &raw const self.before, ptr::null_mut()) };
    }
}

/// Runs in the thread that is asked, between any two of its instructions: it takes no lock, allocates
/// nothing and leaves `errno` alone but for `gettid`, which cannot fail (signal-safety(7)).
extern "C" fn answer(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let thread = nix::unistd::gettid().as_raw();
    if ASKED.compare_exchange(thread, -thread, SeqCst, SeqCst).is_err() {
        return;
    }
    let (signals, wanted) = (SIGNALS.load(SeqCst), BLOCKED.load(SeqCst));
    // SAFETY: the kernel hands a handler with `SA_SIGINFO` its context, and with that the mask to
    // install when it returns (sigaction(2)). The kernel's masks have 64 bits.
    let mask = unsafe { &raw mut (*context.cast::<libc::ucontext_t>()).uc_sigmask }.cast::<u64>();
    // SAFETY: as above.
    let before = unsafe { mask.read_unaligned() };
    // SAFETY: as above.
    unsafe { mask.write_unaligned(before & !signals | wanted) };
    BLOCKED.store(before & signals, SeqCst);
    ASKED.store(0, SeqCst);
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicU32},
        thread,
    };

    use nix::sys::signal::{SigSet, Signal};

    use super::*;

    /// Two signals that nothing else here has a use for.
    const ASKED_FOR: [i32; 2] = [libc::SIGTTIN, libc::SIGTTOU];
    /// The threads of one test are other threads to the other.
    static ALONE: Mutex<()> = Mutex::new(());

    fn until(what: impl Fn() -> bool) {
        let since = Instant::now();
        while !what() {
            assert!(since.elapsed() < Duration::from_secs(20), "nobody came");
            thread::yield_now();
        }
    }

    fn blocks() -> [bool; 3] {
        let own = SigSet::thread_get_mask().expect("a mask");
        [Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGWINCH].map(|signal| own.contains(signal))
    }

    #[test]
    fn every_other_thread_blocks_the_signals_and_then_what_it_did_before() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (moment, arrived) = (AtomicU32::new(0), AtomicU32::new(0));
        let next = |number: u32| {
            arrived.fetch_add(1, SeqCst);
            until(|| moment.load(SeqCst) >= number);
        };
        let look = |before: [bool; 3]| {
            assert_eq!(blocks(), before);
            next(1);
            assert_eq!(blocks(), [true, true, before[2]], "it was asked for two");
            let started = thread::scope(|scope| scope.spawn(blocks).join());
            assert_eq!(started.expect("it ends")[..2], [true, true], "so does what it starts");
            next(2);
            assert_eq!(blocks(), before);
        };
        thread::scope(|scope| {
            scope.spawn(|| look([false; 3]));
            scope.spawn(|| {
                SigSet::from(Signal::SIGTTIN).thread_block().expect("blocked");
                look([true, false, false]);
            });
            scope.spawn(|| {
                SigSet::all().thread_block().expect("blocked");
                look([true; 3]);
            });
            until(|| arrived.load(SeqCst) == 3);
            let own = blocks();
            let shield = raise();
            assert_eq!(blocks(), own, "this thread is left alone");
            moment.store(1, SeqCst);
            until(|| arrived.load(SeqCst) == 6);
            drop(shield);
            moment.store(2, SeqCst);
        });
    }

    /// A machine may be so busy that a thread does not come to answer; then it is asked again.
    fn raise() -> Shield {
        let raised = (0..20).find_map(|_| Shield::raise(ASKED_FOR).ok());
        raised.expect("all answer")
    }

    /// Ends what waits for it, whether the test passes or not.
    struct Ending<'a>(&'a AtomicBool);

    impl Drop for Ending<'_> {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }

    #[test]
    fn threads_that_come_and_go_meanwhile_are_found() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, started) = (AtomicBool::new(false), AtomicU32::new(0));
        thread::scope(|scope| {
            let _ending = Ending(&ended);
            for _ in 0..2 {
                scope.spawn(|| {
                    while !ended.load(SeqCst) {
                        thread::scope(|inner| {
                            inner.spawn(|| started.fetch_add(1, SeqCst));
                        });
                    }
                });
            }
            for _ in 0..40 {
                let before = started.load(SeqCst);
                let shield = raise();
                let wanted = bit(ASKED_FOR[0]) | bit(ASKED_FOR[1]);
                for thread in others().expect("a list") {
                    if let Some(mask) = mask(thread) {
                        assert_eq!(mask & wanted, wanted, "thread {thread}");
                    }
                }
                drop(shield);
                until(|| started.load(SeqCst) != before);
            }
        });
    }
}
