//! The metrics: what each is named, what it means, and its values at the moment of a scrape.
//!
//! Guarantees:
//! - nothing is counted here: every value is read when it is asked for, from the durable counters and the parts that know
//!   it, so that no gauge drifts or becomes negative, and a counter only grows while the process lives;
//! - the number of series is bounded: labels are words of this program, and the hosts are at most `delivery.max_hosts` and
//!   one more.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::delivery::{Kind, Latency};
use crate::event::{DeadReason, Host};
use crate::figures::{Figures, Meter};
use crate::schedule::HostHealth;

/// The format that [`text`] is in, as a content type.
pub(super) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name, as it is scraped.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// Every metric, in the order of a scrape.
pub fn all() -> impl Iterator<Item = About> {
    METRICS.iter().map(|(name, values, help)| About { name, kind: values.name(), help })
}

/// Where the values of a metric come from.
enum Values {
    Total(fn(&Figures) -> u64),
    /// With a label.
    Totals(fn(&Scrape) -> Labelled),
    Now(fn(&Figures) -> f64),
    /// `None` is left out.
    Perhaps(fn(&Figures) -> Option<f64>),
    /// With labels.
    States(fn(&Scrape) -> Labelled),
    Latency,
}

impl Values {
    fn kind(&self) -> MetricType {
        match self {
            Self::Total(_) | Self::Totals(_) => MetricType::Counter,
            Self::Now(_) | Self::Perhaps(_) | Self::States(_) => MetricType::Gauge,
            Self::Latency => MetricType::Histogram,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Total(_) | Self::Totals(_) => "counter",
            Self::Now(_) | Self::Perhaps(_) | Self::States(_) => "gauge",
            Self::Latency => "histogram",
        }
    }
}

/// Values by their labels.
type Labelled = Vec<(Vec<(&'static str, String)>, u64)>;

/// The end of a counter's name, which the encoder adds.
const TOTAL: &str = "_total";

const METRICS: &[(&str, Values, &str)] = &[
    ("target_notifyd_build_info", Values::States(build), "1, with the version of the program."),
    (
        "target_notifyd_uptime_seconds",
        Values::Now(|now| now.uptime_s),
        "Seconds since the daemon was started.",
    ),
    (
        "target_notifyd_events_accepted_total",
        Values::Total(|now| now.accepted),
        "Events whose submission was answered queued, over the life of the queue.",
    ),
    (
        "target_notifyd_events_delivered_total",
        Values::Total(|now| now.delivered),
        "Events that Target acknowledged, over the life of the queue.",
    ),
    (
        "target_notifyd_events_quarantined_total",
        Values::Total(|now| now.quarantined),
        "Events that could not be read back from the disk, over the life of the queue.",
    ),
    (
        "target_notifyd_events_dead",
        Values::Now(|now| now.dead as f64),
        "Events set aside for any reason but age, over the life of the queue, but for those requeued since.",
    ),
    (
        "target_notifyd_events_expired",
        Values::Now(|now| now.expired as f64),
        "Events set aside because of their age, over the life of the queue, but for those requeued since.",
    ),
    (
        "target_notifyd_events_set_aside_total",
        Values::Totals(set_aside),
        "Events set aside since the start, by reason.",
    ),
    (
        "target_notifyd_events_pending",
        Values::Now(|now| now.pending as f64),
        "Events that wait: accepted, less delivered, dead, expired and quarantined.",
    ),
    (
        "target_notifyd_events_surplus",
        Values::Now(|now| now.surplus as f64),
        "Events that the start found beyond what the account promised: anything but 0 is an error.",
    ),
    (
        "target_notifyd_oldest_age_seconds",
        Values::Perhaps(|now| now.oldest_s.or(Some(0.0).filter(|_| now.pending == 0))),
        "Seconds since the oldest event that waits arrived; 0 where none waits.",
    ),
    (
        "target_notifyd_dead_letters",
        Values::Now(|now| now.dead_held as f64),
        "Dead letters that are held now.",
    ),
    (
        "target_notifyd_requests_total",
        Values::Totals(requests),
        "Requests to Target since the start, by what came of them.",
    ),
    (
        "target_notifyd_delivery_seconds",
        Values::Latency,
        "How long requests to Target took that were answered or ran out of time.",
    ),
    (
        "target_notifyd_requests_in_flight",
        Values::Now(|now| now.in_flight as f64),
        "Requests to Target under way.",
    ),
    (
        "target_notifyd_breaker_state",
        Values::States(hosts),
        "1 for the state that a host is in, 0 for the others.",
    ),
    ("target_notifyd_lanes", Values::Now(|now| now.lanes as f64), "Sessions with events in the index."),
    (
        "target_notifyd_events_parked",
        Values::Now(|now| now.parked as f64),
        "Events that fail by themselves and are parked.",
    ),
    (
        "target_notifyd_queue_held_bytes",
        Values::Now(|now| now.held_bytes as f64),
        "Bytes of all stored records, which queue.max_bytes bounds.",
    ),
    (
        "target_notifyd_disk_used_bytes",
        Values::Perhaps(|now| now.disk_used_bytes.map(|bytes| bytes as f64)),
        "Bytes that the queue's folder takes on the disk.",
    ),
    (
        "target_notifyd_disk_free_bytes",
        Values::Perhaps(|now| now.disk_free_bytes.map(|bytes| bytes as f64)),
        "Bytes that may still be written on the queue's disk.",
    ),
    ("target_notifyd_connections", Values::Now(|now| now.connections as f64), "Connections of producers."),
    (
        "target_notifyd_connections_turned_away_total",
        Values::Total(|now| now.turned_away),
        "Connections of producers that were turned away since the start.",
    ),
    (
        "target_notifyd_lines_refused_total",
        Values::Totals(refused),
        "Lines of producers that were refused since the start: rejected for good, or unavailable for now.",
    ),
];

/// What one scrape shows.
#[derive(Debug)]
struct Scrape {
    figures: Figures,
    set_aside: Vec<(DeadReason, u64)>,
    requests: Vec<(Kind, u64)>,
    latency: Latency,
    hosts: Vec<(Host, HostHealth)>,
}

/// The metrics now, in Prometheus' text format.
pub(super) async fn text(meter: &Meter) -> Result<String, fmt::Error> {
    let (figures, hosts) = tokio::join!(meter.figures(), meter.hosts());
    let scrape = Scrape {
        figures,
        set_aside: meter.queue().buried().collect(),
        requests: meter.delivery().requests().collect(),
        latency: meter.delivery().latency(),
        hosts,
    };
    encode(scrape)
}

fn encode(scrape: Scrape) -> Result<String, fmt::Error> {
    let (mut text, mut registry) = (String::new(), Registry::default());
    registry.register_collector(Box::new(scrape));
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, values, help) in METRICS {
            let name = name.strip_suffix(TOTAL).unwrap_or(name);
            if matches!(values, Values::Perhaps(now) if now(&self.figures).is_none()) {
                continue;
            }
            let mut metric = encoder.encode_descriptor(name, help, None, values.kind())?;
            match values {
                Values::Total(total) => {
                    metric.encode_counter::<NoLabelSet, _, u64>(&total(&self.figures), None)?
                }
                Values::Totals(totals) => each(&mut metric, totals(self), |mut one, value| {
                    one.encode_counter::<NoLabelSet, _, u64>(&value, None)
                })?,
                Values::Now(now) => metric.encode_gauge(&now(&self.figures))?,
                Values::Perhaps(now) => {
                    if let Some(value) = now(&self.figures) {
                        metric.encode_gauge(&value)?;
                    }
                }
                Values::States(states) => {
                    each(&mut metric, states(self), |mut one, value| one.encode_gauge(&value))?;
                }
                Values::Latency => {
                    let latency = &self.latency;
                    let seconds = |bound: Option<u64>| bound.map_or(f64::INFINITY, |ms| ms as f64 / 1_000.0);
                    let buckets: Vec<(f64, u64)> =
                        latency.buckets().map(|(bound, count)| (seconds(bound), count)).collect();
                    let total = latency.total().as_secs_f64();
                    metric.encode_histogram::<NoLabelSet>(total, latency.count(), &buckets, None)?;
                }
            }
        }
        Ok(())
    }
}

fn each(
    family: &mut MetricEncoder<'_>,
    values: Labelled,
    encode: impl Fn(MetricEncoder<'_>, u64) -> fmt::Result,
) -> fmt::Result {
    for (labels, value) in values {
        encode(family.encode_family(&labels)?, value)?;
    }
    Ok(())
}

fn build(_: &Scrape) -> Labelled {
    vec![(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1)]
}

fn set_aside(scrape: &Scrape) -> Labelled {
    scrape.set_aside.iter().map(|(reason, count)| (vec![("reason", reason.to_string())], *count)).collect()
}

fn requests(scrape: &Scrape) -> Labelled {
    let one = |(kind, count): &(Kind, u64)| (vec![("outcome", kind.as_str().to_owned())], *count);
    scrape.requests.iter().map(one).collect()
}

fn refused(scrape: &Scrape) -> Labelled {
    let Figures { rejected, unavailable, .. } = scrape.figures;
    let one = |status: &str, count| (vec![("status", status.to_owned())], count);
    vec![one("rejected", rejected), one("unavailable", unavailable)]
}

fn hosts(scrape: &Scrape) -> Labelled {
    let states = |(host, health): &(Host, HostHealth)| {
        let (host, health) = (host.to_string(), *health);
        HostHealth::ALL.map(|state| {
            (vec![("host", host.clone()), ("state", state.as_str().to_owned())], u64::from(state == health))
        })
    };
    scrape.hosts.iter().flat_map(states).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(figures: Figures) -> Scrape {
        let hosts = vec![(Host::Client, HostHealth::Paused)];
        let went = crate::delivery::Counts::default();
        let (requests, latency) = (went.requests().collect(), went.latency());
        Scrape { figures, set_aside: vec![(DeadReason::Refused, 3)], requests, latency, hosts }
    }

    #[test]
    fn names_follow_the_conventions_and_each_metric_is_encoded_under_its_own() {
        let text = encode(scrape(Figures {
            disk_used_bytes: Some(1),
            disk_free_bytes: Some(2),
            ..Figures::default()
        }))
        .unwrap();
        for About { name, kind, help } in all() {
            assert!(
                text.contains(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}")),
                "{name}:\n{text}"
            );
            assert_eq!(name.ends_with(TOTAL), kind == "counter", "{name}");
            assert!(name.starts_with("target_notifyd_") && help.ends_with('.'), "{name}");
        }
        let state = "target_notifyd_breaker_state{host=\"client\",state=\"paused\"} 1\n";
        assert!(text.contains(state) && text.contains("state=\"open\"} 0\n"), "{text}");
        assert!(text.contains("set_aside_total{reason=\"refused\"} 3\n"), "{text}");
    }

    #[test]
    fn what_the_disk_does_not_tell_is_left_out() {
        let text = encode(scrape(Figures { pending: 1, ..Figures::default() })).unwrap();
        assert!(!text.contains("disk_free") && !text.contains("oldest_age"), "{text}");
    }
}
