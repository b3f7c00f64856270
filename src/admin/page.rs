//! The status as a page for people.

use std::fmt::Write;

use crate::orchestrator::{Cut, OldRequest, Status};
#[cfg(feature = "fetch")]
use crate::orchestrator::{Step, UpgradeStatus};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:60rem}\
    table{border-collapse:collapse;margin:1rem 0}\
    th,td{text-align:left;padding:.2rem .8rem;border-bottom:1px solid #ccc}\
    td.n{text-align:right;font-variant-numeric:tabular-nums}";

pub(super) fn of(status: &Status) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut page, status);
    page
}

fn write_page(page: &mut String, status: &Status) -> std::fmt::Result {
    let program = escaped(&status.program.to_string_lossy());
    let title = program.rsplit('/').next().unwrap_or(&program);
    write!(page, "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2>")?;
    write!(page, "<title>{title}: {}</title><style>{STYLE}</style>", status.state)?;
    write!(page, "<h1>{title}</h1><p>{}, generation {}", status.state, status.generation)?;
    write!(page, ", {} in flight. ", status.in_flight)?;
    write!(page, "Master {} of {program}, up {:.0} s", status.pid, status.uptime)?;
    write!(page, "; {} reloads, {} failed", status.reloads.succeeded, status.reloads.failed)?;
    write!(page, "; {} restarts.</p>", status.restarts)?;
    if let Some(last) = &status.last_reload {
        let outcome = match &last.reason {
            None => format!("generation {} serves", last.generation),
            Some(reason) => format!("failed: {}", escaped(reason)),
        };
        write!(page, "<p>The last reload took {:.3} s: {outcome}.</p>", last.took)?;
    }
    #[cfg(feature = "fetch")]
    if let Some(upgrade) = &status.upgrade {
        write_upgrade(page, upgrade)?;
    }
    page.push_str("<table><tr>");
    for head in ["generation", "PID", "state", "in flight", "new", "active", "idle", "upgraded"] {
        write!(page, "<th>{head}</th>")?;
    }
    page.push_str("<th>ends within</th></tr>");
    for worker in &status.workers {
        let connections = worker.connections;
        let pid = worker.pid.map_or_else(String::new, |pid| pid.to_string());
        write!(page, "<tr><td class=n>{}</td><td class=n>{pid}</td>", worker.generation)?;
        write!(page, "<td>{}</td>", worker.state)?;
        for count in [
            worker.in_flight,
            connections.new,
            connections.active,
            connections.idle,
            connections.upgraded,
        ] {
            write!(page, "<td class=n>{count}</td>")?;
        }
        let left = worker.drain_deadline.map_or_else(String::new, |left| format!("{left:.1} s"));
        write!(page, "<td class=n>{left}</td></tr>")?;
    }
    page.push_str(
        "</table><table><tr><th>generation</th><th>oldest requests</th><th>age</th></tr>",
    );
    for worker in &status.workers {
        for OldRequest { method, path, age, upgraded } in &worker.oldest_requests {
            write_request(
                page,
                worker.generation,
                (method.as_str(), path.as_str()),
                *age,
                *upgraded,
            )?;
        }
    }
    if !status.last_cuts.is_empty() {
        page.push_str("</table><table><tr><th>generation</th><th>cut at the end of it, of ");
        write!(page, "{}</th><th>age</th></tr>", status.cut)?;
    }
    for Cut { generation, method, path, age, upgraded, .. } in &status.last_cuts {
        write_request(page, *generation, (method.as_str(), path.as_str()), *age, *upgraded)?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn write_request(
    page: &mut String,
    generation: u64,
    (method, path): (&str, &str),
    age: f64,
    upgraded: bool,
) -> std::fmt::Result {
    let (method, path) = (escaped(method), escaped(path));
    write!(page, "<tr><td class=n>{generation}</td><td>{method} {path}")?;
    page.push_str(if upgraded { " (upgraded)" } else { "" });
    write!(page, "</td><td class=n>{age:.1} s</td></tr>")
}

#[cfg(feature = "fetch")]
fn write_upgrade(page: &mut String, status: &UpgradeStatus) -> std::fmt::Result {
    write!(page, "<p>")?;
    if status.step == Step::Fetching {
        write!(page, "Fetching the next version: {} bytes", status.received)?;
        if let Some(length) = status.length {
            write!(page, " of {length}")?;
        }
        write!(page, ". ")?;
    } else if status.step != Step::Idle {
        write!(page, "Looking for the next version. ")?;
    }
    let counts = status.counts;
    write!(page, "{} upgrades, {} failed", counts.installed + counts.upgraded, counts.failed)?;
    if let Some(reason) = status.last_failure.as_ref().and_then(|last| last.reason.as_ref()) {
        write!(page, "; the last failure: {}", escaped(reason))?;
    }
    write!(page, ".</p>")
}

/// Paths come from clients.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        orchestrator::{Board, Options},
        server::{CutRequest, Survey},
    };

    #[test]
    fn what_clients_send_is_text_and_no_markup() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
        let board = Board::with_worker("/bin/app".as_ref(), &Options::default(), 1);
        let oldest = CutRequest {
            method: "GET".to_owned(),
            path: "/<script>".to_owned(),
            age: Duration::from_secs(1),
            upgraded: true,
        };
        let cut = CutRequest { path: "/<b>".to_owned(), ..oldest.clone() };
        board.counted(1, 1, Survey { upgraded: 1, oldest: vec![oldest], ..Survey::default() });
        board.cut(1, &[cut]);
        let page = of(&board.status());
        assert!(page.contains("GET /&lt;script&gt; (upgraded)"), "{page}");
        assert!(page.contains("GET /&lt;b&gt; (upgraded)"), "{page}");
        assert!(!page.contains("<script>"), "{page}");
    }
}
