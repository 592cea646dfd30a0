//! What the fuzz targets do with their bytes: everything that is read from outside, and what must hold of it whatever it is.
//!
//! A function panics where a property is broken. The programs in `fuzz_targets/` call them with what libFuzzer makes up, and
//! a test of `cargo test` with the committed corpora.

use std::io::{Seek, SeekFrom, Write};

use serde::de::IgnoredAny;
use target_notifyd::config::{Config, Sources};
use target_notifyd::event::{Event, EventId, Moment, Seq, SessionId};
use target_notifyd::ingest::{Frame, Framer};
use target_notifyd::wire::cookie::{self, Cookie};
use target_notifyd::wire::defaults::Defaults;
use target_notifyd::wire::record::{self, Page};
use target_notifyd::wire::submission::{Fidelity, MAX_NOTIFICATIONS, Submission, again};
use target_notifyd::wire::{controls, hash, receipt, reply, request, response};

/// What is done with one input.
pub(crate) type Target = fn(&[u8]);

/// Every target by its name.
pub(crate) const ALL: [(&str, Target); 6] = [
    ("framing", framing),
    ("submission", submission),
    ("record", record),
    ("answer", answer),
    ("cookie", cookie),
    ("configuration", configuration),
];

const NOW_MS: u64 = 1_700_000_000_000;

/// A stream of lines, whose first two bytes say how long a line may be, and how much each read brings: the frames are those
/// of the whole stream cut at its line ends, and memory is bounded.
pub(crate) fn framing(data: &[u8]) {
    let [max_line, read, stream @ ..] = data else { return };
    let (max_line, read) = (usize::from(*max_line), 1 + usize::from(*read));
    let mut framer = Framer::new(max_line);
    let mut found = Vec::new();
    for piece in stream.chunks(read) {
        framer.push(piece);
        take(&mut framer, &mut found);
        assert!(framer.held_bytes() <= max_line + 1, "{} bytes are held", framer.held_bytes());
        assert!(framer.begun() || framer.held_bytes() == 0);
    }
    framer.finish();
    take(&mut framer, &mut found);
    let whole = stream.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let expected =
        whole.filter(|line| !line.is_empty()).map(|line| (line.len() <= max_line).then(|| line.to_vec()));
    assert_eq!(found, expected.collect::<Vec<_>>());
}

/// Takes the lines that are complete, each `None` where it is too long.
fn take(framer: &mut Framer, found: &mut Vec<Option<Vec<u8>>>) {
    while let Some(frame) = framer.next() {
        found.push(match frame {
            Frame::Line(line) => Some(line.to_vec()),
            Frame::TooLong => None,
        });
    }
}

/// A producer's line: what is taken can be sent, answered, and submitted again as the same events; what is not is refused in
/// one line.
pub(crate) fn submission(data: &[u8]) {
    let line = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let filled = Defaults {
        impression_id: true,
        channel: true,
        time_zone: Some(jiff::tz::TimeZone::fixed(jiff::tz::offset(1))),
        analytics_logging: true,
        property_token: Some("token".to_owned()),
        environment_id: Some(7),
    };
    for defaults in [filled, Defaults::default()] {
        match Submission::parse(line, &defaults, NOW_MS) {
            Ok(submission) => {
                assert!(is_json(line));
                taken(submission);
            }
            Err(rejection) => {
                let malformed = rejection.code == reply::Code::MalformedJson;
                assert!(is_json(line) != malformed || rejection.message.contains("nests deeper"));
                one_line(&reply::rejected(&rejection));
            }
        }
    }
}

fn is_json(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|line| serde_json::from_str::<IgnoredAny>(line).is_ok())
}

fn taken(mut submission: Submission) {
    let count = submission.notifications.len();
    assert!((1..=MAX_NOTIFICATIONS).contains(&count), "{count} notifications");
    if let Some(stitch) = submission.stitch.clone() {
        let members = submission.envelope.members.len();
        submission.set_supplemental_data_id(&stitch.fresh.replace(|_: char| true, "A"));
        assert_eq!(submission.envelope.members.len(), members);
    }
    let ids: Vec<EventId> = submission.notifications.iter().map(|one| one.id.clone()).collect();
    let mut told = String::new();
    let reference = submission.reference.as_deref();
    reply::push_queued(&mut told, &ids, &submission.envelope.session, reference, true);
    one_line(&told);
    let json = submission.notifications.iter().map(|one| &*one.json);
    let members = &submission.envelope.members;
    for tnt_id in [None, submission.envelope.visitor.map(|_| "a\"b.35_0")] {
        let body = request::body(members, tnt_id, json.clone(), "r");
        serde_json::from_slice::<IgnoredAny>(&body).expect("a request is JSON");
    }
    let envelope = submission.envelope;
    let event = |(seq, one): (u64, target_notifyd::wire::submission::Notification)| Event {
        seq: Seq(seq),
        id: one.id,
        arrived: Moment::ZERO,
        notification: one.json,
        envelope: envelope.clone(),
    };
    let events: Vec<Event> = (1..).zip(submission.notifications).map(event).collect();
    let again = again(&events);
    assert_ne!(again.fidelity, Fidelity::Changed, "{}", again.line);
}

/// A record of the disk, as it is and with a right checksum: no damage is anything but an error, and what is read is the same
/// when it is written and read again.
pub(crate) fn record(data: &[u8]) {
    let mut sealed = [&[1], data].concat();
    sealed.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
    for record in [data, &sealed] {
        if let Ok(page) = Page::decode(record) {
            for first in [Seq(1), Seq(u64::MAX - 2)] {
                let entries: Vec<_> = page.entries(first).collect();
                for (position, entry) in entries.iter().enumerate() {
                    assert_eq!(page.session(position).is_some(), position < page.len());
                    let event = page.event(first, position, Some(b"\"context\":{}"));
                    let event = event.expect("what has an entry can be read");
                    assert_eq!(hash::entry(&event), *entry);
                }
                assert!(page.event(first, page.len(), None).is_none());
            }
            let _place = page.apart();
        }
        if let Ok(letter) = record::decode_dead(record) {
            assert_eq!(record::decode_dead(&record::encode_dead(&letter)), Ok(letter));
        }
        if let Ok(members) = record::decode_members(record) {
            assert_eq!(record::decode_members(&record::encode_members(members)), Ok(members));
        }
        if let Ok(stopped) = controls::decode(record) {
            assert_eq!(controls::decode(&controls::encode(&stopped)), Ok(stopped));
        }
    }
}

/// An answer of Target: nobody is told control characters, and a receipt is one line of JSON that has what was listed.
pub(crate) fn answer(data: &[u8]) {
    let message = response::message(data);
    assert!(
        message.len() <= response::MAX_MESSAGE_BYTES && !message.contains(char::is_control),
        "{message:?}"
    );
    let session = SessionId::new("s1").expect("a session id");
    let answer = receipt::Answer::new(&session, NOW_MS / 1_000, None, None, Some(data));
    assert!(answer.frame_bytes() <= receipt::MAX_FRAME_BYTES);
    let listed = response::decode(data).map(|delivered| delivered.listed).unwrap_or_default();
    let flags = response::listed_flags(&listed, &listed.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(flags.iter().all(|flag| *flag));
    let own: Vec<_> = listed.iter().map(|id| answer.notification(id).map(ToOwned::to_owned)).collect();
    // Of a body that is no UTF-8 the ids count, and the receipt goes without the rest.
    assert!(std::str::from_utf8(data).is_err() || own.iter().all(Option::is_some), "{listed:?}");
    let ids: Vec<EventId> = listed.iter().map(|id| EventId::new(id)).collect();
    one_line(&receipt::delivered(Some("r"), &ids, Some(&answer), &own));
    one_line(&receipt::delivered(None, &ids, Some(&answer.without_notifications()), &[]));
    let dead = receipt::Dead { id: message.clone(), reason: "refused", detail: message };
    one_line(&receipt::dead(None, &[], &[dead]));
}

/// A cookie: what is read of it is the same when it is written and read again.
pub(crate) fn cookie(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = Cookie::parse(text, NOW_MS);
    assert_ne!(read.device.as_deref(), Some(""));
    if let Some(session) = &read.session {
        let (text, _) = cookie::write(session, read.device.as_deref(), NOW_MS / 1_000);
        assert_eq!(Cookie::parse(&text, NOW_MS), read);
    }
}

/// A configuration, as a file and by its lines as arguments: it is sound, or all that is wrong with it is told.
pub(crate) fn configuration(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(data).and_then(|()| file.seek(SeekFrom::Start(0)).map(drop)).expect("a file");
    let text = String::from_utf8_lossy(data);
    let as_file = Sources { file: file.path().to_owned(), file_required: true, ..Sources::default() };
    let as_arguments = Sources { overrides: text.lines().map(str::to_owned).collect(), ..Sources::default() };
    for sources in [as_file, as_arguments] {
        match Config::load(&sources) {
            Ok(config) => {
                if let Ok(account) = config.account() {
                    let _all = (config.transport_settings(&account), config.ingest_settings());
                }
                let _all = (config.wire_defaults(None), config.backoff());
            }
            Err(problems) => assert!(!problems.to_string().is_empty()),
        }
    }
}

/// One JSON object on one line, as the protocol has it.
fn one_line(text: &str) {
    assert!(text.starts_with('{') && !text.contains(['\n', '\r']), "{text:?}");
    serde_json::from_str::<IgnoredAny>(text).expect("it is JSON");
}
