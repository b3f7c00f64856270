//! Where the listeners of this process come from.

use std::{env, fmt, future::Future};

use crate::{
    error::Error,
    listener::{Address, Listener},
    server::App,
    tls::TlsConfig,
};

/// An application and where it listens.
pub(crate) struct Binding {
    pub(crate) place: Place,
    pub(crate) app: Box<dyn App>,
    pub(crate) tls: Option<TlsConfig>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    At(Address),
    /// Inherited sockets, else `GRACEFUL_LISTEN`, else `PORT`, else 127.0.0.1:3000.
    Default,
}

/// Gives listeners: the master, or this process itself.
pub(crate) trait Provider {
    /// Every socket that the supervisor passed.
    fn inherited(&mut self) -> impl Future<Output = Result<Vec<Listener>, Error>>;

    /// The `nth` socket for an address.
    fn listen(
        &mut self,
        address: &Address,
        nth: u32,
    ) -> impl Future<Output = Result<Listener, Error>>;
}

/// Opens every listener that the bindings ask for.
pub(crate) async fn open(
    provider: &mut impl Provider,
    bindings: Vec<Binding>,
) -> Result<Vec<(Listener, Box<dyn App>)>, Error> {
    let mut opened: Vec<(Listener, Box<dyn App>)> = Vec::new();
    let mut asked: Vec<Address> = Vec::new();
    for Binding { place, app, tls } in bindings {
        // Before any socket is asked for: a file that cannot be used is the user's first concern.
        let tls = tls.map(|config| config.load()).transpose()?;
        let secured = |mut listener: Listener| {
            if let Some(tls) = &tls {
                listener.secure(tls.clone());
            }
            listener
        };
        let addresses = match place {
            Place::At(address) => vec![address],
            Place::Default => {
                let inherited = provider.inherited().await?;
                if !inherited.is_empty() {
                    let inherited = inherited.into_iter().map(secured);
                    opened.extend(inherited.map(|listener| (listener, app.another())));
                    continue;
                }
                default_addresses()?
            }
        };
        for address in addresses {
            let nth = asked.iter().filter(|other| **other == address).count() as u32;
            opened.push((secured(provider.listen(&address, nth).await?), app.another()));
            asked.push(address);
        }
    }
    Ok(opened)
}

/// What to bind when the program does not say.
pub(crate) fn default_addresses() -> Result<Vec<Address>, Error> {
    if let Some(list) = variable("GRACEFUL_LISTEN")? {
        let of = |error| Error::config("cannot use GRACEFUL_LISTEN").because(error);
        return list.split(',').map(|address| address.trim().parse().map_err(of)).collect();
    }
    if let Some(port) = variable("PORT")? {
        let port: u16 = port
            .parse()
            .map_err(|error| Error::config(format!("cannot use PORT={port:?}")).because(error))?;
        return Ok(vec![Address::from(std::net::SocketAddr::from(([0, 0, 0, 0], port)))]);
    }
    Ok(vec![Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 3000)))])
}

fn variable(name: &str) -> Result<Option<String>, Error> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(Error::config(format!("cannot use {name}")).because(error)),
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding").field("place", &self.place).finish_non_exhaustive()
    }
}
