use std::{
    ffi::{CString, OsStr, OsString, c_char},
    io, ptr,
};

use nix::libc;

/// As many as the number of a process can have.
pub(super) const PID_DIGITS: usize = 10;

/// A program, its arguments and its environment as execve(2) takes them: made before a fork, as nothing
/// can be allocated after it.
#[derive(Debug)]
pub(super) struct Invocation {
    path: CString,
    args: Texts,
    variables: Texts,
}

impl Invocation {
    pub(super) fn new<'a>(
        path: &OsStr,
        args: impl Iterator<Item = &'a OsStr>,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> io::Result<Self> {
        let variables = variables.map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(&name)
        });
        Ok(Self {
            path: text(path)?,
            args: Texts::new(args.map(text).collect::<io::Result<_>>()?),
            variables: Texts::new(variables.collect::<io::Result<_>>()?),
        })
    }

    /// Writes the number of this process over the digits that the last variable ends with.
    pub(super) fn write_own_pid(&mut self) {
        let mut pid = std::process::id();
        self.variables.change_last(|text| {
            for digit in text.iter_mut().rev().take(PID_DIGITS) {
                *digit = b'0' + (pid % 10) as u8;
                pid /= 10;
            }
        });
    }

    /// Becomes this program. Returns only when that fails.
    ///
    /// Not by execvp(3), as std does it: that gives whatever the kernel knows no format of to a shell,
    /// which executes it line by line, be it a log file or a program for another machine.
    pub(super) fn exec(&self) -> io::Error {
        let (args, variables) = (self.args.as_ptr(), self.variables.as_ptr());
        // SAFETY: one path that ends with a null byte and two arrays of such texts that end with a null
        // pointer, all of which `self` owns.
        unsafe { libc::execve(self.path.as_ptr(), args, variables) };
        io::Error::last_os_error()
    }
}

/// Texts, each with a null byte at its end, and where each of them is.
#[derive(Debug)]
struct Texts {
    pointers: Vec<*const c_char>,
    owned: Vec<Vec<u8>>,
}

impl Texts {
    fn new(owned: Vec<CString>) -> Self {
        let owned: Vec<_> = owned.into_iter().map(CString::into_bytes_with_nul).collect();
        let pointers = owned.iter().map(|text| text.as_ptr().cast()).chain([ptr::null()]).collect();
        Self { pointers, owned }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }

    /// Allocates nothing.
    fn change_last(&mut self, change: impl FnOnce(&mut [u8])) {
        if let Some(at) = self.owned.len().checked_sub(1)
            && let Some((_null, text)) = self.owned[at].split_last_mut()
        {
            change(text);
            self.pointers[at] = self.owned[at].as_ptr().cast();
        }
    }
}

// SAFETY: the pointers lead into heap memory that moves along with this; who writes to it has it alone.
unsafe impl Send for Texts {}
// SAFETY: as above; shared access can only read.
unsafe impl Sync for Texts {}

fn text(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_encoded_bytes())?)
}
