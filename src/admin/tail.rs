//! `tail`: outcomes as they happen. A reader who is slow is told how many he missed, and nobody waits for him.

use tokio::sync::broadcast::error::RecvError;

use super::connection::{Answered, End, Peer};
use super::office::{Office, Refusal};
use super::protocol::{Answer, Done, Outcome};
use crate::delivery::{Fate, Heard};
use crate::event;

const FATES: [(&str, Fate); 3] =
    [("delivered", Fate::Delivered), ("dead", Fate::Dead), ("retry", Fate::Retry)];

pub(super) async fn tail(
    office: &Office,
    peer: &mut Peer,
    session: Option<&str>,
    outcomes: &[String],
    limit: Option<u64>,
) -> Answered {
    let mut fates = Vec::new();
    for name in outcomes {
        let found = FATES.iter().find(|(known, _)| known == name).map(|(_, fate)| *fate);
        fates.push(found.ok_or_else(|| {
            Refusal::of("malformed", format!("\"{name}\" is no outcome: it is delivered, dead or retry"))
        })?);
    }
    // Before the peer is told, so that nothing that happens afterwards is missed.
    let mut heard = office.feed.listen();
    peer.tell(&Answer::Listening {}).await?;
    let mut told = 0;
    while limit.is_none_or(|limit| told < limit) {
        // What is not taken stays in the feed, or is counted as missed.
        let next = tokio::select! {
            gone = peer.gone() => return Err(gone),
            next = heard.recv() => next,
        };
        match next {
            Ok(one) => {
                let session_fits = session.is_none_or(|name| office.is(one.session.as_str(), name));
                if session_fits && (fates.is_empty() || fates.contains(&one.fate)) {
                    told += 1;
                    peer.tell(&Answer::Outcome(line(office, &one))).await?;
                }
            }
            Err(RecvError::Lagged(count)) => peer.tell(&Answer::Missed { count }).await?,
            Err(RecvError::Closed) => return Err(End::Refused(Refusal::ShuttingDown)),
        }
    }
    Ok(Done { count: Some(told), ..Done::default() })
}

fn line(office: &Office, heard: &Heard) -> Outcome {
    let fate = FATES.iter().find(|(_, fate)| *fate == heard.fate).map_or("", |(name, _)| name);
    Outcome {
        at_ms: heard.at.as_millis(),
        outcome: fate.to_owned(),
        session: office.show(heard.session.as_str()),
        host: heard.host.to_string(),
        answer: match &heard.answer {
            event::Answer::Listed(_) if heard.fate == Fate::Delivered => "listed".to_owned(),
            // Others of the same request may have been.
            event::Answer::Listed(_) => "unlisted".to_owned(),
            event::Answer::Accepted => "accepted".to_owned(),
            event::Answer::Unreadable => "unreadable".to_owned(),
            event::Answer::Status(status) => status.to_string(),
            event::Answer::Failed(failure) => failure.to_string(),
        },
        took_ms: (heard.took.as_secs_f64() * 1_000_000.0).round() / 1_000.0,
        seqs: heard.events.iter().map(|(seq, _)| seq.0).collect(),
        ids: heard.events.iter().map(|(_, id)| id.as_str().to_owned()).collect(),
        detail: heard.detail.clone(),
    }
}
