//! The engine's log: what is read of one that is whole, torn or damaged.

use super::*;

#[test]
fn a_whole_log_holds_the_records_that_the_engine_has() {
    let folder = TempDir::new().unwrap();
    let mut random = Random::new(7);
    for life in 0..4 {
        let engine = Engine::new_at(folder.path()).unwrap();
        for _ in 0..150 {
            let mut batch = sled::Batch::default();
            for _ in 0..random.bits() % 60 {
                // Filled from the one end and emptied from the other, so that pages split, merge and move.
                let number = random.bits() % 1_500;
                let key = [&b"esv"[..][(number % 3) as usize..][..1], &(life * 700 + number).to_be_bytes()]
                    .concat();
                match random.bits() % 5 {
                    0..2 => batch.remove(key),
                    _ => batch.insert(key, vec![number as u8; (random.bits() % 6_900) as usize]),
                }
            }
            if random.bits().is_multiple_of(30) {
                let all: Vec<_> = engine.from(vec![]).take(800).map(|record| record.unwrap().0).collect();
                all.into_iter().for_each(|key| batch.remove(key));
            }
            let open = engine.opened().unwrap();
            open.db.apply_batch(batch).unwrap();
            open.flush().unwrap();
        }
        let expected = records(&engine);
        drop(engine);
        let tree = loop {
            match Tree::open(folder.path(), BehindEnd::Dropped, Some(0)) {
                // The threads of an engine that was dropped may still cut the end off its log, and tell nobody.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        let found: Vec<Record> = tree.from(vec![]).map(Result::unwrap).collect();
        assert!(expected.len() > 100, "{}", expected.len());
        assert!(found == expected, "life {life}: {} of {}", found.len(), expected.len());
        for (key, value) in expected.iter().step_by(17) {
            assert_eq!(tree.from(key.clone()).next().unwrap().unwrap(), (key.clone(), value.clone()));
        }
    }
}

#[test]
fn a_split_that_a_crash_cut_in_two_brings_nothing_back() {
    let folder = TempDir::new().unwrap();
    let change = |folder: &Path, change: &dyn Fn(&sled::Db)| {
        let engine = Engine::new_at(folder).unwrap();
        let open = engine.opened().unwrap();
        change(&open.db);
        open.flush().unwrap();
        records(&engine)
    };
    for number in 0..24_u64 {
        change(folder.path(), &|db| drop(db.insert(number.to_be_bytes(), vec![7; 3_000]).unwrap()));
    }
    let log = fs::read(folder.path().join("db")).unwrap();
    let mut unknown = 0;
    for page in written(folder.path()).into_iter().filter(|one| one.kind == Kind::Node) {
        let cut = TempDir::new().unwrap();
        fs::copy(folder.path().join("conf"), cut.path().join("conf")).unwrap();
        fs::write(cut.path().join("db"), &log[..page.end]).unwrap();
        let records = change(cut.path(), &|db| {
            (0..24_u64).step_by(2).for_each(|number| drop(db.remove(number.to_be_bytes()).unwrap()));
        });
        let tree = || Tree::open(cut.path(), BehindEnd::Dropped, None).unwrap();
        if tree().has_unknown() {
            unknown += 1;
            // As the engine moves it out of a segment of which little counts.
            let end = written(cut.path()).last().unwrap().end;
            let file = File::options().write(true).open(cut.path().join("db")).unwrap();
            file.write_all_at(&log[page.begin..page.end], end as u64).unwrap();
        }
        assert!(tree().from(vec![]).map(Result::unwrap).eq(records));
    }
    assert!(unknown > 0, "no crash left a page that nobody knows of");
}

/// A message of a log, and where it lies in the file: its beginning, its body, its end.
struct Written {
    kind: Kind,
    lsn: u64,
    begin: usize,
    body: usize,
    end: usize,
}

/// All messages of a log, in the order in which they were written.
fn written(database: &Path) -> Vec<Written> {
    let bytes = fs::read(database.join("db")).unwrap();
    let mut all = Vec::new();
    for (number, segment) in Log::open(database, BehindEnd::Dropped).unwrap().segments().unwrap().0 {
        let from = usize::try_from(segment.at).unwrap();
        let whole = &bytes[from..bytes.len().min(from + LOG_SEGMENT_BYTES)];
        walk(whole, number, segment.at, |message| {
            let (kind, lsn) = (message.kind, message.place.lsn);
            let end = from + message.place.end(whole, segment.at);
            let body = end - usize::try_from(message.place.bytes()).unwrap();
            let begin = from + usize::try_from(lsn).unwrap() % LOG_SEGMENT_BYTES;
            all.push(Written { kind, lsn, begin, body, end });
        });
    }
    all
}

/// Makes of a batch in a log, counted from its end, one that the engine gave up: it writes the manifest with another
/// kind, and the rest all the same. Where the manifest lies.
fn give_up_batch(database: &Path, from_end: usize) -> u64 {
    let mut batches = written(database);
    batches.retain(|message| message.kind == Kind::Batch);
    let Written { lsn, begin, body, end, .. } = batches[batches.len() - from_end];
    let mut bytes = fs::read(database.join("db")).unwrap();
    // As `Kind::Canceled` is written.
    bytes[begin + 4] = 1;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[body..end]);
    crc.update(&bytes[begin + 4..body]);
    bytes[begin..begin + 4].copy_from_slice(&(crc.finalize() ^ u32::MAX).to_le_bytes());
    fs::write(database.join("db"), bytes).unwrap();
    lsn
}

#[test]
fn nothing_counts_of_a_batch_that_was_given_up_at_the_end() {
    let folder = TempDir::new().unwrap();
    let engine = Engine::new_at(folder.path()).unwrap();
    for number in 0..3 {
        let mut batch = sled::Batch::default();
        (0..20).for_each(|key| batch.insert(&[b'e', number, key], vec![number; 900]));
        engine.opened().unwrap().db.apply_batch(batch).unwrap();
        engine.opened().unwrap().flush().unwrap();
    }
    drop(engine);
    let found = || -> Vec<u8> {
        let tree = Tree::open(folder.path(), BehindEnd::Dropped, None).unwrap();
        let numbers = tree.from(vec![b'e']).map(|record| record.unwrap().0[1]);
        numbers.collect()
    };
    let whole: Vec<u8> = (0..3).flat_map(|number| [number; 20]).collect();
    let sound = fs::read(folder.path().join("db")).unwrap();
    // Behind the one in the middle the engine went on with what there was.
    give_up_batch(folder.path(), 2);
    let loss = |known| would_lose(folder.path(), [known]).unwrap();
    assert_eq!((loss(Known::default()), found()), ([None], whole.clone()));

    fs::write(folder.path().join("db"), sound).unwrap();
    let lsn = give_up_batch(folder.path(), 1);
    assert_eq!(loss(Known::default()), [Some(Loss::Half { lsn })]);
    assert_eq!(found(), whole[..40]);
    let before = fs::read(folder.path().join("db")).unwrap();
    let refused = Engine::new_at(folder.path()).unwrap_err();
    assert!(
        matches!(&refused, CommitError::Damaged(why) if why.contains("given up in its middle")),
        "{refused}"
    );
    assert_eq!(fs::read(folder.path().join("db")).unwrap(), before);

    // A snapshot that reaches beyond it has it.
    let known = Known { recovered: lsn + 1, reached: lsn + 1, durable: 0 };
    assert_eq!(loss(known), [None]);
}

/// The journal gave up what moved into the engine last once that was on stable storage: damage there is no trace of a
/// crash.
#[tokio::test]
async fn damage_of_what_moved_last_is_not_taken_for_a_tear() {
    let folder = TempDir::new().unwrap();
    let queue = open(folder.path());
    fill(&queue, 6).await;
    queue.shutdown().await.unwrap();
    let (log, before) = (database(folder.path()), read(folder.path()).0);
    assert_eq!(before.len(), 2_400);
    let sound = fs::read(log.join("db")).unwrap();
    let all = written(&log);
    let durable = replay(&log).unwrap().reached;
    assert_eq!(durable, log_end(&log).unwrap());
    let last = all.iter().rposition(|message| message.kind == Kind::Batch).unwrap();
    assert!(all.len() - last > 3, "{} messages", all.len() - last);
    let mut spared = None;
    for message in all[last..].iter().step_by(5) {
        let mut damaged = sound.clone();
        damaged[message.end - 1] ^= 1;
        fs::write(log.join("db"), &damaged).unwrap();
        let refused = Engine::new_at(&log).unwrap_err();
        assert!(matches!(refused, CommitError::Damaged(_)), "{}: {refused}", message.lsn);
        assert_eq!(fs::read(log.join("db")).unwrap(), damaged, "it is not written over");
        let events = read(folder.path()).0;
        assert!(events.iter().all(|(seq, event)| before.get(seq).is_none_or(|known| known == event)));
        // What is damaged is one message, with one record or as many as a page of the engine has.
        assert!(events.len() > 1_200, "{}: {} of {}", message.lsn, events.len(), before.len());
        // Which of them has what the whole queue goes by differs; without that a repair has to be asked for.
        let audit = check(folder.path()).unwrap();
        spared = audit.ledger.and(audit.schema).map(|_| damaged).or(spared);
    }
    fs::write(log.join("db"), spared.expect("not all of them have it")).unwrap();
    let kept = read(folder.path()).0.len() as u64;
    let queue = open(folder.path());
    assert!(folder.path().join("quarantine/events.1").exists());
    let balance = queue.store().ledger().balance;
    assert_eq!((balance.accepted, balance.pending()), (2_400, kept), "{balance:?}");
    queue.shutdown().await.unwrap();
}

/// A crash also tears what the engine writes over, and has no use for any more: no start repairs that, and nobody has to.
#[tokio::test]
async fn a_place_is_told_only_where_something_is_behind_it() {
    let folder = TempDir::new().unwrap();
    let queue = open(folder.path());
    fill(&queue, 40).await;
    queue.store().settle((1..=15_000).map(Seq).collect(), vec![]).await.unwrap();
    queue.shutdown().await.unwrap();
    let log = database(folder.path());
    let sound = fs::read(log.join("db")).unwrap();
    let known = Known { durable: replay(&log).unwrap().reached, ..known(&log).unwrap() };
    let (mut harmless, mut harmful) = (0, 0);
    for message in written(&log).iter().step_by(29) {
        let mut damaged = sound.clone();
        damaged[message.end - 1] ^= 1;
        fs::write(log.join("db"), damaged).unwrap();
        let [loss] = would_lose(&log, [known]).unwrap();
        let audit = check(folder.path()).unwrap();
        assert_eq!(audit.gaps > 0, loss.is_some(), "{}: {loss:?}, {:?}", message.lsn, audit.wrong());
        match loss {
            Some(_) => harmful += 1,
            None => harmless += usize::from(audit.wrong().is_empty()),
        }
    }
    assert!(harmless > 0 && harmful > 0, "{harmless}, {harmful}");
}

/// A system at its limit of threads starts none of them, or not all.
#[test]
fn a_log_is_read_without_the_threads_that_the_system_refuses() {
    let folder = TempDir::new().unwrap();
    let engine = Engine::new_at(&folder.path().join("events.1")).unwrap();
    engine.limit_journal(16 * 1_024);
    for number in 0..300_u32 {
        let mut batch = Batch::default();
        for part in 0..8_u8 {
            batch.insert([&number.to_be_bytes()[..], &[part]].concat(), [part; 900]);
        }
        engine.commit(batch).unwrap();
    }
    let log = Log::open(engine.path(), BehindEnd::Kept).unwrap();
    let (segments, _) = log.segments().unwrap();
    let read = |started: usize| {
        let reader = |number: usize| match number < started {
            true => std::thread::Builder::new(),
            // No address space has room for its stack.
            false => std::thread::Builder::new().stack_size(1 << 60),
        };
        let mut shown = Vec::new();
        log.each_by(reader, &segments, |number, _, bytes| shown.push((number, bytes.to_vec()))).unwrap();
        shown
    };
    let all = read(usize::MAX);
    let numbers = all.iter().map(|(number, _)| number);
    assert!(all.len() > 2 && numbers.eq(segments.keys()), "{}", all.len());
    assert!(read(0) == all && read(1) == all);
}
