//! What `status` shows once for all hosts that it is true of: dozens may fail for one and the same reason.

use std::iter::once;

use crate::admin::protocol::{Advice, HostLine, Status};

/// The hosts; those that do not serve for one and the same reason are one line, and their names come with it.
pub(super) fn hosts(status: &Status) -> Vec<(HostLine, Vec<&str>)> {
    let groups = together(&status.hosts, |host| (host.state != "open").then_some((&host.state, &host.error)));
    groups.into_iter().map(|(first, more)| joined(first, &more)).collect()
}

/// What may be done, and the further hosts that the same goes for.
pub(super) fn advice(status: &Status) -> Vec<(&Advice, Vec<&str>)> {
    let of_a_host = |advice| of_a_host(&status.hosts, advice);
    let groups = together(&status.advice, |advice| of_a_host(advice).map(|(_, about)| about));
    let names = |more: Vec<_>| more.into_iter().filter_map(of_a_host).map(|(host, _)| host).collect();
    groups.into_iter().map(|(first, more)| (first, names(more))).collect()
}

/// The host that an advice begins with, and what it says of that.
fn of_a_host<'s>(hosts: &'s [HostLine], advice: &'s Advice) -> Option<(&'s str, &'s str)> {
    let said_of = |host: &'s str| Some((host, advice.about.strip_prefix(host)?.strip_prefix(' ')?));
    hosts.iter().find_map(|host| said_of(&host.host))
}

/// Hosts as one: their sessions and requests together, the trouble that lasts longest, and the wait that ends first.
fn joined<'s>(first: &'s HostLine, more: &[&'s HostLine]) -> (HostLine, Vec<&'s str>) {
    let mut line = first.clone();
    if more.is_empty() {
        return (line, Vec::new());
    }
    line.host = format!("{} hosts", more.len() + 1);
    for host in more {
        line.since_s = line.since_s.into_iter().chain(host.since_s).reduce(f64::max);
        line.wait_s = line.wait_s.into_iter().chain(host.wait_s).reduce(f64::min);
        line.waiting += host.waiting;
        line.in_flight += host.in_flight;
    }
    (line, once(first).chain(more.iter().copied()).map(|host| host.host.as_str()).collect())
}

/// `all` in their order, those with the same key beside the first of them; what has no key stands alone.
fn together<'s, T, K: PartialEq>(all: &'s [T], key: impl Fn(&'s T) -> Option<K>) -> Vec<(&'s T, Vec<&'s T>)> {
    let mut groups: Vec<(&T, Vec<&T>)> = Vec::new();
    for one in all {
        let key_of_it = key(one);
        match groups.iter_mut().find(|(first, _)| key_of_it.is_some() && key(first) == key_of_it) {
            Some((_, more)) => more.push(one),
            None => groups.push((one, Vec::new())),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_true_of_several_hosts_stands_at_the_first_of_them() {
        let host = |name: &str, state: &str, error: Option<&str>, since_s, wait_s| HostLine {
            host: name.to_owned(),
            state: state.to_owned(),
            since_s: Some(since_s),
            error: error.map(str::to_owned),
            wait_s: Some(wait_s),
            waiting: 2,
            in_flight: 1,
            at_most: None,
        };
        let advice = |about: &str| Advice { about: about.to_owned(), run: String::new() };
        let status = Status {
            hosts: vec![
                host("client", "open", None, 0.0, 0.0),
                host("3", "breaker", Some("refused"), 7.0, 5.0),
                host("31", "open", None, 0.0, 0.0),
                host("32", "breaker", Some("reset"), 1.0, 1.0),
                host("35", "breaker", Some("refused"), 9.0, 4.0),
                host("36", "breaker", Some("refused"), 8.0, 6.0),
            ],
            advice: vec![
                advice("the disk is full"),
                advice("3 fails"),
                advice("32 fails"),
                advice("35 refuses everything"),
                advice("the disk is full"),
            ],
            ..Status::default()
        };
        let lines = hosts(&status);
        let told: Vec<_> = lines.iter().map(|(line, names)| (line.host.as_str(), names.join(" "))).collect();
        let alone = |name| (name, String::new());
        assert_eq!(told, [alone("client"), ("3 hosts", "3 35 36".to_owned()), alone("31"), alone("32")]);
        let (line, _) = &lines[1];
        assert_eq!((line.since_s, line.wait_s), (Some(9.0), Some(4.0)));
        assert_eq!((line.waiting, line.in_flight), (6, 3));

        let told: Vec<_> =
            super::advice(&status).into_iter().map(|(one, more)| (one.about.as_str(), more)).collect();
        assert_eq!(
            told,
            [
                ("the disk is full", vec![]),
                ("3 fails", vec!["32"]),
                ("35 refuses everything", vec![]),
                ("the disk is full", vec![]),
            ]
        );
    }
}
