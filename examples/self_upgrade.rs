//! A program that moves to its own next version.
//!
//! ```sh
//! examples/self_upgrade.sh    # builds two versions, signs them, and shows the move under load
//! ```
//!
//! By hand: `minisign -G -W` makes a key pair; `APP_KEY` is the second line of `minisign.pub` and
//! becomes part of the build, as the version does. Sign each build with `minisign -S -W -m app`, and put
//! `app.minisig`, then `app`, on a web server. That is all that a deploy takes from then on.

use std::{env, time::Duration};

use axum::{Router, routing::get};
use graceful::{
    GracefulLayer, Handle,
    fetch::{Http, Upgrade},
};

const VERSION: &str = match option_env!("APP_VERSION") {
    Some(version) => version,
    None => "1.0.0",
};
/// Whoever has the other half of this key says what runs here.
const KEY: Option<&str> = option_env!("APP_KEY");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = KEY.ok_or("nobody can sign for this build: set APP_KEY when you build it")?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let variable = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let source = Http::new(variable("APP_URL", "http://127.0.0.1:8000/app"))?;
    let upgrade = Upgrade::from(source)
        .minisign(key)
        .version(VERSION)
        // Soon enough to watch it; the default of five minutes is kinder.
        .interval(Duration::from_secs(1))
        .pre_upgrade(|candidate| async move {
            println!("about to install version {}", candidate.version.unwrap_or_default());
            Ok::<_, String>(())
        });
    graceful::serve_with(build)
        .bind(variable("APP_BIND", "127.0.0.1:3000"))
        .upgrade(upgrade)
        .on_ready(|started| {
            let (generation, address) = (started.generation, &started.addresses[0]);
            println!("version {VERSION}, generation {generation}, on http://{address}/");
        })
        .run()?;
    Ok(())
}

/// Runs in each worker, and never in the master.
async fn build() -> Result<Router, String> {
    Ok(Router::new().route("/", get(version)).layer(GracefulLayer::new()))
}

async fn version(handle: Handle) -> String {
    format!("version {VERSION}, generation {}\n", handle.generation())
}
