//! Builds of the program under test: each has a version, and perhaps a fault, at the end of its file.

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use axum::body::Bytes;
use minisign::KeyPair;
use sha2::{Digest, Sha256};

/// What follows the sections of an ELF file is nobody's business.
const TRAILER: usize = 64;

/// This test program as another version of itself.
pub(crate) fn build(version: &str, fault: &str) -> Bytes {
    padded(version, fault, 0)
}

/// The same with so many bytes more.
pub(crate) fn padded(version: &str, fault: &str, bytes: usize) -> Bytes {
    let mut content = base().to_vec();
    content.resize(content.len() + bytes, b'x');
    let trailer = format!("{version} {fault}");
    content.extend_from_slice(format!("{trailer:>TRAILER$}").as_bytes());
    content.into()
}

/// Version and fault of the build that this process runs.
pub(crate) fn own() -> (String, String) {
    let mut file = std::fs::File::open("/proc/self/exe").expect("the program of this process");
    file.seek(SeekFrom::End(-(TRAILER as i64))).expect("it is longer");
    let mut trailer = String::new();
    file.read_to_string(&mut trailer).expect("the trailer of a build");
    let (version, fault) = trailer.trim_start().split_once(' ').expect("both");
    (version.to_owned(), fault.to_owned())
}

/// Without what only a debugger wants: it is copied, hashed and served many times.
fn base() -> &'static Bytes {
    static BASE: OnceLock<Bytes> = OnceLock::new();
    BASE.get_or_init(|| {
        let own = std::env::current_exe().expect("the path of this test program");
        let directory = tempfile::tempdir().expect("a directory");
        let stripped = directory.path().join("stripped");
        let status = Command::new("strip").arg("-o").arg(&stripped).arg(&own).status();
        let path = if status.is_ok_and(|status| status.success()) { stripped } else { own };
        std::fs::read(path).expect("read it").into()
    })
}

/// Puts a build in place, in one step.
pub(crate) fn put(path: &Path, content: &[u8]) {
    let new = path.with_extension("tmp");
    std::fs::write(&new, content).expect("write the program");
    // By another process: what is written here may be open, for a moment, in a program that another
    // thread starts, and cannot be executed then (ETXTBSY).
    let copy = "cp \"$1\" \"$2.new\" && chmod 755 \"$2.new\" && mv \"$2.new\" \"$2\" && rm \"$1\"";
    let status =
        Command::new("sh").args(["-c", copy, "sh"]).arg(&new).arg(path).status().expect("a shell");
    assert!(status.success(), "cannot put the program in place: {status}");
}

pub(crate) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key pair; who has the public half trusts what it signs.
pub(crate) struct Signer(KeyPair);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate_unencrypted_keypair().expect("a key pair"))
    }

    pub(crate) fn public(&self) -> String {
        self.0.pk.to_base64()
    }

    /// The content of a `.minisig` file.
    pub(crate) fn sign(&self, content: &[u8]) -> Bytes {
        let signature =
            minisign::sign(Some(&self.0.pk), &self.0.sk, Cursor::new(content), None, None);
        signature.expect("a signature").into_string().into()
    }
}
