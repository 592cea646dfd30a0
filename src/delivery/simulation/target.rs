//! The fake Target: it answers everything that the table of answers has, and what it answers is read by the real code.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::plan::{Fault, HOSTS, Weather, below, draw_failure, one_in, pick};
use super::world::{Shared, World};
use crate::delivery::Edge;
use crate::delivery::transport::{Unread, failed, outcome};
use crate::event::{Failure, Host, Outcome, Seq, SessionId};

/// Target, as the flusher sees it.
#[derive(Clone)]
pub(super) struct Target(pub(super) Shared);

/// What becomes of a request, decided when it comes in.
struct Reaction {
    delay: Duration,
    said: Said,
}

enum Said {
    Answer { status: u16, retry_after: Option<Duration>, body: Result<Vec<u8>, Unread> },
    Nothing(Failure),
}

/// A request under way; dropped with its future, it is over.
struct UnderWay {
    shared: Shared,
    token: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.shared.world().over(self.token);
    }
}

impl Edge for Target {
    /// Its answers are short.
    fn limit(&mut self, _max_answer: usize) {}

    async fn attempt(
        &self,
        host: Host,
        session: &SessionId,
        _request_id: &str,
        body: Vec<u8>,
        ids: &[&str],
    ) -> (Outcome, Option<Vec<u8>>) {
        let (token, seqs, reaction) = {
            let mut world = self.0.world();
            let (token, seqs) = world.check_request(host, session, &body, ids);
            let reaction = react(&mut world, host, &seqs, ids);
            (token, seqs, reaction)
        };
        let under_way = UnderWay { shared: self.0.clone(), token };
        sleep(reaction.delay).await;
        let (outcome, body) = match reaction.said {
            Said::Answer { status, retry_after, body } => {
                outcome(StatusCode::from_u16(status).unwrap(), retry_after, body, ids)
            }
            Said::Nothing(failure) => (failed(failure, &failure.to_string()), None),
        };
        self.0.world().answered(host, &seqs, &outcome);
        drop(under_way);
        (outcome, body)
    }
}

/// What the weather, the session and the events make of a request, in this order.
fn react(world: &mut World, host: Host, seqs: &[Seq], ids: &[&str]) -> Reaction {
    let (now, healed) = (world.now(), world.healed());
    let weather = if now >= healed { Weather::Fine } else { weather(world, host) };
    let timeout = world.plan.timeout;
    let nothing = |failure, delay| Reaction { delay, said: Said::Nothing(failure) };
    match weather {
        Weather::Down(failure) => return nothing(failure, latency(world) / 2),
        Weather::Hangs => return nothing(Failure::Timeout, timeout),
        Weather::Answers(status) => return status_of(world, status),
        Weather::Busy => {
            let status = pick(&mut world.random, &[429, 503]);
            return status_of(world, status);
        }
        Weather::Noisy(percent) if below(&mut world.random, 100) < percent => {
            return noise(world, seqs, ids);
        }
        Weather::Noisy(_) | Weather::Fine => {}
    }
    if now < healed && world.is_busy_session(seqs) {
        return status_of(world, 420);
    }
    if now < healed && world.is_wrong_owner(seqs) {
        return status_of(world, 403);
    }
    for fault in world.faults(seqs) {
        match fault {
            Fault::Poison(status) => return status_of(world, status),
            Fault::Crasher(_) if now >= healed => {}
            // No status: it takes its connection down.
            Fault::Crasher(0) => return nothing(Failure::Reset, latency(world)),
            Fault::Crasher(status) => return status_of(world, status),
            Fault::Unlisted | Fault::None => {}
        }
    }
    let flags: Vec<bool> = world.faults(seqs).into_iter().map(|fault| fault != Fault::Unlisted).collect();
    if flags.iter().all(|listed| *listed) && one_in(&mut world.random, 10) {
        return answer(world, 204, None, Ok(Vec::new()));
    }
    let body = listing(world, host, seqs, ids, &flags);
    answer(world, 200, None, Ok(body))
}

fn weather(world: &World, host: Host) -> Weather {
    let position = match host {
        Host::Client => 0,
        Host::Edge(cluster) if cluster.as_str() == "35" => 1,
        Host::Edge(_) => HOSTS - 1,
    };
    let phases = world.plan.weather.len();
    let phase = world.since_start().as_micros() * phases as u128 / world.plan.lasts.as_micros().max(1);
    world.plan.weather[usize::try_from(phase).unwrap().min(phases - 1)][position]
}

/// One of everything.
fn noise(world: &mut World, seqs: &[Seq], ids: &[&str]) -> Reaction {
    let timeout = world.plan.timeout;
    let random = &mut world.random;
    match below(random, 13) {
        0 => Reaction { delay: timeout, said: Said::Nothing(Failure::Timeout) },
        1 | 2 => {
            let failure = draw_failure(random);
            Reaction { delay: latency(world), said: Said::Nothing(failure) }
        }
        3 => {
            let status = pick(random, &[400, 402, 405, 410, 413, 414, 422, 451]);
            status_of(world, status)
        }
        4 => {
            let status = pick(random, &[401, 403, 404, 301, 302, 308]);
            status_of(world, status)
        }
        5 => status_of(world, 420),
        6 | 7 => {
            let status = pick(random, &[408, 425, 429]);
            status_of(world, status)
        }
        8 => {
            let status = pick(random, &[500, 501, 502, 503, 504, 599]);
            status_of(world, status)
        }
        9 => {
            let status = pick(random, &[201, 202, 205, 206]);
            answer(world, status, None, Ok(Vec::new()))
        }
        10 => {
            let unread = |why: &str, failure| Err(Unread { why: why.to_owned(), failure, start: Vec::new() });
            let body = pick(
                random,
                &[
                    unread("the answer is too long", None),
                    unread("the connection was cut", Some(Failure::Reset)),
                    Ok(b"<html>".to_vec()),
                    Ok(br#"{"notifications":[{"id":"e"#.to_vec()),
                ],
            );
            answer(world, 200, None, body)
        }
        _ => {
            let status = pick(random, &[200, 200, 200, 201, 202, 206]);
            let flags: Vec<bool> = ids.iter().map(|_| !one_in(random, 3)).collect();
            let flags: Vec<bool> = flags
                .into_iter()
                .zip(world.faults(seqs))
                .map(|(flag, fault)| flag && !matches!(fault, Fault::Unlisted | Fault::Poison(_)))
                .collect();
            let body = listing(world, Host::Client, seqs, ids, &flags);
            answer(world, status, None, Ok(body))
        }
    }
}

fn status_of(world: &mut World, status: u16) -> Reaction {
    let asks = matches!(status, 408 | 420 | 425 | 429 | 500..=599) && one_in(&mut world.random, 2);
    let retry_after = asks.then(|| Duration::from_secs(pick(&mut world.random, &[0, 1, 7, 4_000])));
    let body = format!(r#"{{"status":{status},"message":"no {}"}}"#, world.random.bits() % 1_000);
    answer(world, status, retry_after, Ok(body.into_bytes()))
}

fn answer(
    world: &mut World,
    status: u16,
    retry_after: Option<Duration>,
    body: Result<Vec<u8>, Unread>,
) -> Reaction {
    Reaction { delay: latency(world), said: Said::Answer { status, retry_after, body } }
}

fn latency(world: &mut World) -> Duration {
    let limit = world.plan.timeout.as_millis() as u64;
    let most = if one_in(&mut world.random, 20) { limit } else { 50.min(limit) };
    Duration::from_millis(below(&mut world.random, most))
}

/// The body of a 2xx: the notifications listed, in any order and with strangers between, perhaps another edge host and
/// a `tntId`, perhaps such as nobody may believe.
fn listing(world: &mut World, host: Host, seqs: &[Seq], ids: &[&str], flags: &[bool]) -> Vec<u8> {
    let listed = ids.iter().zip(flags).filter(|(_, flag)| **flag).map(|(id, _)| json!({"id": id}));
    let mut listed: Vec<Value> = listed.collect();
    if one_in(&mut world.random, 4) {
        listed.reverse();
        listed.insert(0, json!({"id": "nobody's"}));
    }
    let mut body = json!({"status": 200, "notifications": listed});
    match below(&mut world.random, 8) {
        0 => body["edgeHost"] = json!("mboxedge36.tt.omtrdc.net"),
        1 => body["edgeHost"] = json!("evil.example"),
        2 => {
            body["edgeHost"] =
                json!(format!("mboxedge{}.tt.omtrdc.net", if host == Host::Client { 35 } else { 37 }))
        }
        _ => {}
    }
    match below(&mut world.random, 8) {
        0 => {
            let tnt_id = format!("t{}.35_0", world.random.bits() % 100);
            world.tells(seqs, &tnt_id);
            body["id"] = json!({"tntId": tnt_id});
        }
        1 => body["id"] = json!({"tntId": "two.dots.35_0"}),
        _ => {}
    }
    serde_json::to_vec(&body).unwrap()
}
