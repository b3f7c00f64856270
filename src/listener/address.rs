use std::{
    fmt,
    hash::{Hash, Hasher},
    net::SocketAddr,
    path::PathBuf,
    str::FromStr,
};

use crate::Error;

/// An address to listen on.
///
/// Written `host:port`, `[v6]:port`, `unix:/path`, or, on Linux, `unix:@name` for a name in the
/// abstract namespace (unix(7)). An IPv6 address takes IPv6 connections only; for both families bind
/// both `0.0.0.0:port` and `[::]:port`.
///
/// `unix:/path?mode=0660` says who may connect, in octal digits as chmod(1) takes them, whatever the
/// umask: connecting takes the right to write. Without it the umask decides, which mostly leaves it to the
/// user of the server alone. It holds from the moment in which the file is made: a reload that asks for
/// another mode keeps the file as it is. A socket that systemd passes has its `SocketMode=`. The mode is
/// no part of the name: addresses are equal, and printed alike, whatever theirs is.
///
/// # Example
///
/// ```
/// use graceful::listener::Address;
///
/// let address: Address = "unix:/run/app.sock".parse()?;
/// assert_eq!(address.to_string(), "unix:/run/app.sock");
/// assert!("8080".parse::<Address>().is_err());
/// # Ok::<(), graceful::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Address {
    pub(super) form: Form,
    /// Of the file of a Unix socket.
    pub(super) mode: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    Ip(SocketAddr),
    /// A name to look up when the address is bound.
    Name(String, u16),
    Path(PathBuf),
    #[cfg(target_os = "linux")]
    Abstract(Vec<u8>),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| Error::config(format!("cannot listen on {text:?}: {why}")))
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.form == other.form
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.form.hash(state);
    }
}

impl Address {
    /// As it is written, with its mode.
    pub(crate) fn text(&self) -> String {
        match self.mode {
            Some(mode) => format!("{self}{MODE}{mode:04o}"),
            None => self.to_string(),
        }
    }
}

/// What stands between a path and the mode of its file.
const MODE: &str = "?mode=";

fn parse(text: &str) -> Result<Address, &'static str> {
    let Some(path) = text.strip_prefix("unix:") else {
        return Ok(Address { form: parse_ip(text)?, mode: None });
    };
    let (path, mode) = match path.rsplit_once(MODE) {
        Some((path, mode)) => (path, Some(parse_mode(mode)?)),
        None => (path, None),
    };
    let form = parse_unix(path)?;
    match (&form, mode) {
        (Form::Path(_), _) | (_, None) => Ok(Address { form, mode }),
        _ => Err("only the file of a socket has a mode"),
    }
}

fn parse_mode(text: &str) -> Result<u32, &'static str> {
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|c| matches!(c, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or("the mode is no octal number from 000 to 777")
}

fn parse_ip(text: &str) -> Result<Form, &'static str> {
    if let Ok(address) = text.parse() {
        return Ok(Form::Ip(address));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("a port is missing, write host:port or unix:/path");
    };
    let port = port.parse().map_err(|_| "the port is not a number from 0 to 65535")?;
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    match host {
        "" => Err("the host is missing, write 0.0.0.0:port for every IPv4 address"),
        // All digits and dots, and yet it did not parse.
        _ if host.chars().all(|c| c.is_ascii_digit() || c == '.') => Err("not an IPv4 address"),
        _ if host.starts_with('[') => Err("not an IPv6 address"),
        _ if host.parse::<std::net::Ipv6Addr>().is_ok() => {
            Err("an IPv6 address needs brackets: [address]:port")
        }
        _ if host.chars().all(name) => Ok(Form::Name(host.to_owned(), port)),
        _ => Err("not a host name"),
    }
}

fn parse_unix(path: &str) -> Result<Form, &'static str> {
    // sun_path of sockaddr_un holds 108 bytes on Linux and 104 on macOS, the last of them zero.
    const PATH_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
    let name = path.strip_prefix('@');
    if path.is_empty() || name == Some("") {
        return Err("the path is missing");
    }
    if path.len() > PATH_MAX {
        return Err("the path is too long for a Unix socket");
    }
    if path.contains('\0') {
        return Err("the path holds a zero byte");
    }
    match name {
        #[cfg(target_os = "linux")]
        Some(name) => Ok(Form::Abstract(name.as_bytes().to_vec())),
        #[cfg(not(target_os = "linux"))]
        Some(_) => Err("abstract names exist on Linux only"),
        None => Ok(Form::Path(PathBuf::from(path))),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Ip(address) => address.fmt(f),
            Form::Name(host, port) => write!(f, "{host}:{port}"),
            Form::Path(path) => write!(f, "unix:{}", path.display()),
            #[cfg(target_os = "linux")]
            Form::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { form: Form::Ip(address), mode: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_printed_back() {
        for text in [
            "127.0.0.1:3000",
            "0.0.0.0:0",
            "[::1]:8080",
            "[::]:80",
            "localhost:3000",
            "my-host.example:1",
            "unix:/run/app.sock",
            "unix:relative.sock",
            #[cfg(target_os = "linux")]
            "unix:@name",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_mode_is_no_part_of_the_name() {
        for (text, path, mode) in [
            ("unix:/run/app.sock?mode=0660", "unix:/run/app.sock", 0o660),
            ("unix:/run/app.sock?mode=777", "unix:/run/app.sock", 0o777),
            ("unix:a?b?mode=0600", "unix:a?b", 0o600),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.mode, Some(mode), "{text}");
            assert_eq!(address.to_string(), path);
            assert_eq!(address, path.parse().unwrap());
            let again: Address = address.text().parse().unwrap();
            assert_eq!((again.mode, &again), (Some(mode), &address), "as the wire has it");
        }
        assert_eq!("unix:a?b".parse::<Address>().unwrap().mode, None);
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        let long = format!("unix:/{}", "x".repeat(108));
        for (text, why) in [
            ("", "port is missing"),
            ("3000", "port is missing"),
            ("localhost", "port is missing"),
            (":3000", "host is missing"),
            ("127.0.0.1:", "not a number"),
            ("127.0.0.1:65536", "not a number"),
            ("127.0.0.1:-1", "not a number"),
            ("127.0.0:80", "not an IPv4"),
            ("256.0.0.1:80", "not an IPv4"),
            ("[::1:80", "not an IPv6"),
            ("::1:80", "brackets"),
            ("a b:80", "not a host name"),
            ("http://x:80", "not a host name"),
            ("unix:", "path is missing"),
            ("unix:@", "path is missing"),
            (&long, "too long"),
            ("unix:/a\0b", "zero byte"),
            ("unix:/a?mode=", "no octal number"),
            ("unix:/a?mode=+66", "no octal number"),
            ("unix:/a?mode=0680", "no octal number"),
            ("unix:/a?mode=1777", "no octal number"),
            ("unix:?mode=0660", "path is missing"),
            #[cfg(target_os = "linux")]
            ("unix:@a?mode=0660", "only the file"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.is_config());
            assert!(error.to_string().contains(why), "{text:?}: {error}");
        }
    }
}
