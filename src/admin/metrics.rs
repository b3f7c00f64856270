//! The status as numbers, in the text format that Prometheus reads.

use std::fmt::{Display, Write};

use crate::orchestrator::Status;
#[cfg(feature = "fetch")]
use crate::orchestrator::{Step, UpgradeStatus};

pub(super) fn of(status: &Status) -> String {
    let mut page = Page(String::new());
    page.gauge("graceful_generation", "The generation that serves.");
    page.value(&[], status.generation);
    page.gauge("graceful_uptime_seconds", "Since the start of the master.");
    page.value(&[], status.uptime);
    page.gauge("graceful_in_flight", "Requests in flight in all workers.");
    page.value(&[], status.in_flight);

    let workers = || status.workers.iter().map(|worker| (worker.generation.to_string(), worker));
    page.gauge("graceful_worker", "1 for each worker, by what it is doing.");
    for (generation, worker) in workers() {
        page.value(&[("generation", &generation), ("state", worker.state)], 1);
    }
    page.gauge("graceful_worker_in_flight", "Requests in flight.");
    for (generation, worker) in workers() {
        page.value(&[("generation", &generation)], worker.in_flight);
    }
    page.gauge("graceful_worker_connections", "Open connections, by what they are doing.");
    for (generation, worker) in workers() {
        let connections = worker.connections;
        for (state, count) in [
            ("new", connections.new),
            ("active", connections.active),
            ("idle", connections.idle),
            ("upgraded", connections.upgraded),
        ] {
            page.value(&[("generation", &generation), ("state", state)], count);
        }
    }
    page.gauge("graceful_worker_oldest_request_seconds", "Age of the oldest request in flight.");
    for (generation, worker) in workers() {
        let oldest = worker.oldest_requests.first().map_or(0.0, |request| request.age);
        page.value(&[("generation", &generation)], oldest);
    }

    page.counter("graceful_reloads_total", "Reloads, by their outcome.");
    page.value(&[("outcome", "succeeded")], status.reloads.succeeded);
    page.value(&[("outcome", "failed")], status.reloads.failed);
    if let Some(last) = &status.last_reload {
        page.gauge("graceful_last_reload_succeeded", "1 if the last reload succeeded, else 0.");
        page.value(&[], u8::from(last.succeeded));
        page.gauge("graceful_last_reload_timestamp_seconds", "When the last reload ended.");
        page.value(&[], last.at);
        page.gauge("graceful_last_reload_duration_seconds", "How long the last reload took.");
        page.value(&[], last.took);
    }
    page.counter("graceful_restarts_total", "Workers started in place of crashed ones.");
    page.value(&[], status.restarts);
    page.counter("graceful_requests_cut_total", "Requests in flight at the end of their worker.");
    page.value(&[], status.cut);
    #[cfg(feature = "fetch")]
    status.upgrade.iter().for_each(|upgrade| page.upgrade(upgrade));
    page.0
}

/// The name of a metric stands in its two head lines and before each value.
struct Page(String);

impl Page {
    #[cfg(feature = "fetch")]
    fn upgrade(&mut self, status: &UpgradeStatus) {
        let counts = status.counts;
        self.counter("graceful_upgrade_checks_total", "Looks for a new version, by outcome.");
        for (outcome, count) in [
            ("unchanged", counts.unchanged),
            ("installed", counts.installed),
            ("upgraded", counts.upgraded),
            ("failed", counts.failed),
        ] {
            self.value(&[("outcome", outcome)], count);
        }
        self.gauge("graceful_upgrade_running", "1 while one is looked for or moved to, else 0.");
        self.value(&[], u8::from(status.step != Step::Idle));
        self.gauge("graceful_upgrade_received_bytes", "Of the download that runs or ran last.");
        self.value(&[], status.received);
        if let Some(last) = &status.last_check {
            self.gauge("graceful_upgrade_last_check_succeeded", "1 if it did not fail, else 0.");
            self.value(&[], u8::from(last.verdict.is_some()));
            self.gauge("graceful_upgrade_last_check_timestamp_seconds", "When it ended.");
            self.value(&[], last.at);
            self.gauge("graceful_upgrade_last_check_duration_seconds", "How long it took.");
            self.value(&[], last.took);
        }
    }

    fn gauge(&mut self, name: &str, help: &str) {
        self.head(name, help, "gauge");
    }

    fn counter(&mut self, name: &str, help: &str) {
        self.head(name, help, "counter");
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let name = self.0.rsplit("# TYPE ").next().and_then(|rest| rest.split(' ').next());
        let mut line = name.unwrap_or_default().to_owned();
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(line, "{open}{label}=\"{text}\"");
        }
        line.push_str(if labels.is_empty() { "" } else { "}" });
        let _ = writeln!(self.0, "{line} {value}");
    }
}
