//! The sections of the configuration: every key with its type, its default and what is allowed.

use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::filter::Targets;

use super::kinds::*;
use super::reader::{Key, Reader, section};
use super::token::{self, PropertyToken};
use crate::event::Cluster;

section! {
    /// `[target]`: the account at Adobe, and the way there.
    "target" Target {
        /// The client code; required to run.
        client: Option<String> = "", client;
        /// The IMS organisation id; required to run.
        organization_id: Option<String> = "", organization;
        /// The property token of submissions that bring none.
        property_token: Option<PropertyToken> = "", token::inline;
        /// A regular file that holds the property token; without it the systemd credential `property-token` is read.
        property_token_file: Option<PathBuf> = "", optional_path;
        /// The environment of submissions that bring none; 0 is none.
        environment_id: Option<i64> = 0, optional_integer;
        /// The edge cluster of sessions that bring none.
        location_hint: Option<Cluster> = "", cluster;
        /// The client's own host, with `{client}` for the client code.
        endpoint: String = "https://{client}.tt.omtrdc.net", required_endpoint("{client}");
        /// The host of an edge cluster, with `{cluster}` for its digits. Empty, or `endpoint` set without this, turns
        /// edge routing off.
        edge_endpoint: Option<String> = "https://mboxedge{cluster}.tt.omtrdc.net", optional_endpoint("{cluster}");
        /// The longest a request may take, answer included.
        timeout: Duration = "10s", duration(MS..=HOUR);
        /// The longest a connection may take to be made.
        connect_timeout: Duration = "3s", duration(MS..=HOUR);
        /// Further root certificates, as PEM.
        ca_file: Option<PathBuf> = "", optional_path;
        /// The proxy; empty leaves it to HTTPS_PROXY or ALL_PROXY, for https:// alone. http:// to loopback goes
        /// through none.
        proxy: Option<String> = "", proxy;
        /// Whether http:// may go to other hosts than loopback.
        allow_http: bool = false, boolean;
    }
}

section! {
    /// `[defaults]`: what is filled in where a submission leaves it out.
    "defaults" Defaults {
        /// An `impressionId` for each notification.
        impression_id: bool = true, boolean;
        /// `context.channel` = `web`.
        channel: bool = true, boolean;
        /// This host's `context.timeOffsetInMinutes` at the moment of arrival.
        time_offset: bool = true, boolean;
        /// `experienceCloud.analytics.logging` = `server_side`.
        analytics_logging: bool = true, boolean;
    }
}

section! {
    /// `[ingest]`: the producers' socket.
    "ingest" Ingest {
        /// Where it is made; an inherited socket named "notify" wins.
        socket: PathBuf = "/run/target-notifyd.sock", socket_path;
        /// Its permissions, in octal.
        mode: u32 = "0660", mode;
        /// Users who may submit, by name or uid; with `allow_groups` empty too: whoever can open the socket.
        allow_users: Vec<u32> = [], users;
        /// Groups who may submit, by name or gid.
        allow_groups: Vec<u32> = [], groups;
        /// The longest line, without its end.
        max_line: u64 = "1MiB", size(KIB..=64 * MIB);
        /// The most connections at a time.
        max_connections: u32 = 1024, integer(1..=1_000_000);
        /// The most connections of one user at a time.
        max_connections_per_user: u32 = 512, integer(1..=1_000_000);
        /// A connection that owes and is owed nothing for this long is closed.
        idle_timeout: Duration = "10m", duration(MS..=DECADE);
        /// A line that was begun must end within this.
        line_timeout: Duration = "30s", duration(MS..=DAY);
        /// What lines over 64 KiB may hold together, on all connections; at least `max_line`.
        buffer_max_bytes: u64 = "32MiB", size(KIB..=64 * GIB);
        /// The most receipts that wait, for each connection.
        max_receipts: u32 = 10000, integer(1..=10_000_000);
    }
}

section! {
    /// `[queue]`: the events on disk.
    "queue" Queue {
        /// The folder; one that is absent is made with mode 0700.
        path: PathBuf = "/var/lib/target-notifyd", path;
        /// The most bytes of payload, dead letters included; the files need two to three times as much, and the journal an eighth beside, at most 512 MiB.
        max_bytes: u64 = "2GiB", size(4 * KIB..=1_024 * TIB);
        /// The most events that wait; dead letters have `queue.dead_max_events`.
        max_events: u64 = 10000000, integer(1..=1_000_000_000_000);
        /// With less free disk than this, submissions are refused.
        min_free: u64 = "256MiB", size(0..=1_024 * TIB);
        /// Blocks held for a full disk; at most half of `min_free`.
        reserve: u64 = "64MiB", size(0..=1_024 * TIB);
        /// Events older than this expire, once an attempt has failed.
        max_age: Duration = "7d", duration(MS..=DECADE);
        /// The most memory of the index, and, in what it leaves, of events that were stored lately.
        index_max_bytes: u64 = "48MiB", size(MIB..=TIB);
        /// The most dead letters; those that are being set aside as it is reached come on top, some 10,000 at most.
        dead_max_events: u64 = 100000, integer(0..=1_000_000_000_000);
        /// Dead letters older than this are deleted; 0s: never.
        dead_max_age: Duration = "0s", duration(Duration::ZERO..=DECADE);
    }
}

section! {
    /// `[batch]`: how many notifications of a session share a request.
    "batch" Batch {
        /// How long the first event of a batch waits for more.
        linger: Duration = "500ms", duration(Duration::ZERO..=HOUR);
        /// The most notifications of a request; Target takes 50.
        max_events: u32 = 50, integer(1..=50);
        /// The most bytes of a request's notifications, one of which always fits; what they share comes on top, at most 64 KiB.
        max_bytes: u64 = "512KiB", size(KIB..=64 * MIB);
    }
}

section! {
    /// `[retry]`: what follows a failure.
    "retry" Retry {
        /// The longest wait after the first failure; at most `max`.
        initial: Duration = "1s", duration(MS..=DAY);
        /// The longest wait of all.
        max: Duration = "5m", duration(MS..=DAY);
        /// How much the longest wait grows with each failure.
        multiplier: f64 = 2.0, float(1.0..=10.0);
        /// Failures, while its host serves others, after which a batch is split in halves, and a half at its next one.
        isolate_after: u32 = 3, integer(1..=1_000_000);
        /// Failures after which an event is parked.
        park_after: u32 = 6, integer(1..=1_000_000);
        /// Answers without the notification's id after which an event is set aside.
        unlisted_max: u32 = 6, integer(1..=1_000_000);
    }
}

section! {
    /// `[delivery]`: how much at a time, and when a host is left alone.
    "delivery" Delivery {
        /// The most requests at a time.
        concurrency: u32 = 64, integer(1..=4_096);
        /// The most requests to one host at a time, while another host has work due.
        host_concurrency: u32 = 32, integer(1..=4_096);
        /// The most edge hosts with a state of their own; the sessions of others go to the client's own host, which is not counted.
        max_hosts: u32 = 32, integer(1..=10_001);
        /// The most requests a second; 0: no limit.
        rate_limit: u32 = 0, integer(0..=1_000_000);
        /// Failures in a row after which a host is left alone.
        breaker_failures: u32 = 5, integer(1..=1_000_000);
        /// How long a host is left alone at first; at most `breaker_max`.
        breaker_open: Duration = "2s", duration(MS..=DAY);
        /// How long a host is left alone at most.
        breaker_max: Duration = "10s", duration(MS..=DAY);
        /// Due work without an attempt for this long is an error.
        stuck_after: Duration = "60s", duration(MS..=DAY);
        /// The most bytes of an answer, after decompression.
        max_answer: u64 = "1MiB", size(KIB..=64 * MIB);
    }
}

/// How log lines are written (`log.format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, the journal under systemd, else JSON.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
    /// Entries of systemd's journal.
    Journald,
}

/// How visitors' ids appear in what is logged and printed (`log.identifiers`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentifierForm {
    /// As a keyed hash.
    Hash,
    /// As they are.
    Plain,
    /// Not at all.
    None,
}

const FORMATS: &[(&str, Format)] =
    &[("auto", Format::Auto), ("text", Format::Text), ("json", Format::Json), ("journald", Format::Journald)];
const FORMS: &[(&str, IdentifierForm)] =
    &[("hash", IdentifierForm::Hash), ("plain", IdentifierForm::Plain), ("none", IdentifierForm::None)];

section! {
    /// `[log]`: what is told, and how.
    "log" Log {
        /// "text", "json", "journald", or "auto": text on a terminal, journald under systemd, else json.
        format: Format = "auto", word(FORMATS);
        /// A level, or levels by module, such as "info,target_notifyd::delivery=debug".
        level: Targets = "info", filter;
        /// How often a summary is logged.
        summary_interval: Duration = "60s", duration(MS..=DAY);
        /// How visitors' ids appear: "hash", "plain" or "none".
        identifiers: IdentifierForm = "hash", word(FORMS);
    }
}

section! {
    /// `[admin]`: the operator's socket.
    "admin" Admin {
        /// Where it is made.
        socket: PathBuf = "/run/target-notifyd/admin.sock", socket_path;
        /// Its permissions, in octal.
        mode: u32 = "0600", mode;
        /// HOST:PORT of a Prometheus endpoint; empty: none.
        metrics_listen: Option<String> = "", address;
    }
}

section! {
    /// `[shutdown]`: how the daemon ends.
    "shutdown" Shutdown {
        /// How long requests under way may take to finish.
        grace: Duration = "20s", duration(Duration::ZERO..=HOUR);
    }
}

/// Every key of every section, in the order of the documentation.
pub(super) fn keys() -> impl Iterator<Item = &'static Key> {
    let sections = [
        Target::KEYS,
        Defaults::KEYS,
        Ingest::KEYS,
        Queue::KEYS,
        Batch::KEYS,
        Retry::KEYS,
        Delivery::KEYS,
        Log::KEYS,
        Admin::KEYS,
        Shutdown::KEYS,
    ];
    sections.into_iter().flatten()
}
