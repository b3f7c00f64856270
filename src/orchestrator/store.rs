//! What a listener is called in systemd's descriptor store: enough to know it again after the master
//! was killed.

use std::{fmt, str::FromStr};

/// Other descriptors of the store are not ours to take.
const PREFIX: &str = "graceful";
/// The longest name that systemd takes.
const MAX: usize = 255;

/// A listener as the workers ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredName {
    /// As [`Address`](crate::listener::Address) writes it.
    pub(crate) address: String,
    /// Which of several sockets for the same address, as with port 0.
    pub(crate) nth: u32,
    /// Device and inode of the file of a Unix socket: a later file of that name is another socket's.
    pub(crate) file: Option<(u64, u64)>,
}

impl StoredName {
    /// The name, unless it is too long for the store.
    pub(crate) fn text(&self) -> Option<String> {
        Some(self.to_string()).filter(|text| text.len() <= MAX)
    }
}

/// `graceful.0..127.0.0.1%3A8080`, `graceful.0.fe01-2a.unix%3A/run/app.sock`.
impl fmt::Display for StoredName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.", self.nth)?;
        if let Some((device, inode)) = self.file {
            write!(f, "{device:x}-{inode:x}")?;
        }
        f.write_str(".")?;
        for byte in self.address.bytes() {
            match byte {
                // systemd separates names by colons and takes printable ASCII only.
                b':' | b'%' | ..b' ' | 0x7f.. => write!(f, "%{byte:02X}")?,
                _ => write!(f, "{}", char::from(byte))?,
            }
        }
        Ok(())
    }
}

/// Of a name that is not ours nothing is said but that.
#[derive(Debug)]
pub(crate) struct NotOurs;

impl FromStr for StoredName {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        parse(text).ok_or(NotOurs)
    }
}

fn parse(text: &str) -> Option<StoredName> {
    let mut parts = text.splitn(4, '.');
    if parts.next() != Some(PREFIX) {
        return None;
    }
    let nth = parts.next()?.parse().ok()?;
    let file = match parts.next()? {
        "" => None,
        file => {
            let (device, inode) = file.split_once('-')?;
            let hex = |digits| u64::from_str_radix(digits, 16).ok();
            Some((hex(device)?, hex(inode)?))
        }
    };
    let mut bytes = Vec::new();
    let mut rest = parts.next()?.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    Some(StoredName { address: String::from_utf8(bytes).ok()?, nth, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_printed_and_parsed_back() {
        for (address, nth, file) in [
            ("127.0.0.1:8080", 0, None),
            ("[::1]:0", 3, None),
            ("unix:/run/app 1.50%.sock", 0, Some((0xfe01, u64::MAX))),
            ("unix:@n\u{e4}me\n", 0, None),
        ] {
            let name = StoredName { address: address.to_owned(), nth, file };
            let text = name.text().unwrap();
            assert!(
                text.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b':'),
                "{text}"
            );
            assert_eq!(text.parse::<StoredName>().unwrap(), name);
        }
        let long = StoredName { address: "\n".repeat(100), nth: 0, file: None };
        assert_eq!(long.text(), None);
    }

    #[test]
    fn other_names_are_not_ours() {
        for text in [
            "",
            "unknown",
            "http.socket",
            "graceful",
            "graceful.0",
            "graceful.0.",
            "graceful.x..a",
            "graceful.0.12.a",
            "graceful.0.g-1.a",
            "graceful.0..%4",
            "graceful.0..%G0",
            "graceful.0..%FF",
        ] {
            assert!(text.parse::<StoredName>().is_err(), "{text}");
        }
    }
}
