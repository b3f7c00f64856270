use std::{
    ffi::{CString, OsStr, OsString, c_char},
    io, ptr,
};

use nix::libc;

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

/// Texts, and where each of them is.
#[derive(Debug)]
struct Texts {
    pointers: Vec<*const c_char>,
    _owned: Vec<CString>,
}

impl Texts {
    fn new(owned: Vec<CString>) -> Self {
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, _owned: owned }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

// SAFETY: the pointers lead into heap memory that moves along with this and that nobody writes to.
unsafe impl Send for Texts {}
// SAFETY: as above; shared access can only read.
unsafe impl Sync for Texts {}

fn text(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_encoded_bytes())?)
}
