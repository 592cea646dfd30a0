use super::*;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::{Uid, setfsuid};

const MIB: u64 = 1_024 * 1_024;

#[test]
fn the_reserve_is_given_up_for_removals_and_made_again_before_appends() {
    static FREE: AtomicU64 = AtomicU64::new(0);
    let folder = tempfile::tempdir().unwrap();
    let reserve = folder.path().join("reserve");
    static FILES: AtomicU64 = AtomicU64::new(0);
    let mut space = Space::new(folder.path(), 4 * MIB, MIB, |_| {
        Ok(Free { bytes: FREE.load(Ordering::Relaxed), files: Some(FILES.load(Ordering::Relaxed)) })
    });
    for (bytes, files, enough, held) in [
        (100 * MIB, u64::MAX, true, true),
        (4 * MIB - 1, u64::MAX, false, true),
        (MIB, u64::MAX, false, true),
        (LOG_SEGMENT_BYTES as u64, u64::MAX, false, false),
        (5 * MIB - 1, u64::MAX, false, false),
        (5 * MIB, u64::MAX, true, true),
        // The reserve is a file, too, and what it leaves is for the next segment of the journal.
        (100 * MIB, MIN_FREE_FILES - 1, false, true),
        (100 * MIB, 1, false, true),
        (100 * MIB, 0, false, false),
        (100 * MIB, MIN_FREE_FILES - 1, false, false),
        (100 * MIB, MIN_FREE_FILES, true, true),
    ] {
        FREE.store(bytes, Ordering::Relaxed);
        FILES.store(files, Ordering::Relaxed);
        let free = Free { bytes, files: Some(files) };
        let room = if enough { Room::Enough } else { Room::RemovalsOnly(free) };
        assert_eq!((space.room(1_000), reserve.exists()), (room, held), "{bytes} {files} free");
    }
    assert!(fs::metadata(&reserve).unwrap().blocks() * 512 >= MIB);
    // What is too large for the disk is no reason to give it up, nor to turn others away.
    let free = Free { bytes: 100 * MIB, files: Some(MIN_FREE_FILES) };
    for (bytes, room) in [(40 * MIB, Room::RemovalsOnly(free)), (1_000, Room::Enough)] {
        assert_eq!((space.room(bytes), reserve.exists()), (room, true), "{bytes}");
    }
}

/// The disk without what the reserve takes of it.
#[test]
fn a_reserve_is_not_made_where_it_would_be_given_up_at_once() {
    static DISK: AtomicU64 = AtomicU64::new(0);
    let folder = tempfile::tempdir().unwrap();
    let probe = |root: &Path| Ok(Free::of_bytes(DISK.load(Ordering::Relaxed) - reserve_bytes(root)));
    let (min_free, reserve) = (MIB / 2, MIB / 4);
    let mut space = Space::new(folder.path(), min_free, reserve, probe);
    let least = MIB + reserve;
    for (disk, held) in [(least - 1, 0), (least, reserve), (MIB + 1, 0), (least - 1, 0), (least, reserve)] {
        DISK.store(disk, Ordering::Relaxed);
        // The first look may find it there still.
        space.room(1_000);
        let rooms = [(); 3].map(|()| (space.room(1_000) == Room::Enough, reserve_bytes(folder.path())));
        assert_eq!(rooms, [(held > 0, held); 3], "{disk}");
    }
}

#[test]
fn a_refusal_says_what_must_be_free() {
    static FREE: AtomicU64 = AtomicU64::new(0);
    let folder = tempfile::tempdir().unwrap();
    let reserve = folder.path().join(RESERVE);
    let probe = |_: &Path| Ok(Free::of_bytes(FREE.load(Ordering::Relaxed)));
    let mut space = Space::new(folder.path(), 4 * MIB, MIB, probe);
    let mut told = |free: u64, bytes: u64| {
        FREE.store(free, Ordering::Relaxed);
        assert_ne!(space.room(bytes), Room::Enough, "{free}");
        space.refusal(Free::of_bytes(free))
    };
    let has = |free: u64, more: &str| format!("the disk has {free} bytes free, and {more}");
    let below = "4194304 must stay free (queue.min_free)";
    assert_eq!(told(4 * MIB - 1, 0), has(4 * MIB - 1, below));
    // The reserve has to be made first.
    assert_eq!(told(5 * MIB - 1, 0), has(5 * MIB - 1, "5242880 must be free for this"));
    assert_eq!(told(8 * MIB, 3 * MIB), has(8 * MIB, "9961472 must be free for this"));
    fs::create_dir(&reserve).unwrap();
    assert_eq!(told(5 * MIB, 0), has(5 * MIB, "no room all the same: a quota may be used up"));
}

#[test]
fn another_reserve_is_made_when_there_is_room_and_a_smaller_one_is_cut_at_once() {
    static FREE: AtomicU64 = AtomicU64::new(100 * MIB);
    let folder = tempfile::tempdir().unwrap();
    let size = || fs::metadata(folder.path().join("reserve")).map_or(0, |file| file.len());
    let mut space =
        Space::new(folder.path(), 0, 2 * MIB, |_| Ok(Free::of_bytes(FREE.load(Ordering::Relaxed))));
    assert_eq!((space.room(1_000), size()), (Room::Enough, 2 * MIB));
    space.limit(0, MIB);
    assert_eq!((size(), space.room(1_000)), (MIB, Room::Enough));
    FREE.store(8 * MIB, Ordering::Relaxed);
    space.limit(0, 9 * MIB);
    assert_eq!((size(), space.room(1_000)), (MIB, Room::RemovalsOnly(Free::of_bytes(8 * MIB))));
    FREE.store(20 * MIB, Ordering::Relaxed);
    assert_eq!((space.room(1_000), size()), (Room::Enough, 9 * MIB));
    space.limit(30 * MIB, 0);
    assert_eq!((size(), space.room(1_000)), (0, Room::RemovalsOnly(Free::of_bytes(20 * MIB))));
}

#[test]
fn a_smaller_reserve_is_given_up_where_there_was_no_room_for_a_larger_one() {
    static FREE: AtomicU64 = AtomicU64::new(100 * MIB);
    let probe = |_: &Path| Ok(Free::of_bytes(FREE.load(Ordering::Relaxed)));
    for over_a_restart in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        FREE.store(100 * MIB, Ordering::Relaxed);
        let mut space = Space::new(folder.path(), 4 * MIB, MIB, probe);
        assert_eq!(space.room(1_000), Room::Enough);
        FREE.store(4 * MIB, Ordering::Relaxed);
        match over_a_restart {
            true => space = Space::new(folder.path(), 4 * MIB, 2 * MIB, probe),
            false => space.limit(4 * MIB, 2 * MIB),
        }
        assert_eq!((space.room(1_000), reserve_bytes(folder.path())), (removals(4 * MIB), MIB));
        FREE.store(0, Ordering::Relaxed);
        assert_eq!((space.room(1_000), reserve_bytes(folder.path())), (removals(0), 0));
        assert!(!space.fill(), "there is none any more");
    }
}

/// One that was never made takes nothing with it.
#[test]
fn a_reserve_that_is_changed_back_is_there_still() {
    static FREE: AtomicU64 = AtomicU64::new(0);
    let probe = |_: &Path| Ok(Free::of_bytes(FREE.load(Ordering::Relaxed)));
    for back_to in [MIB, MIB / 2, 0] {
        let folder = tempfile::tempdir().unwrap();
        FREE.store(100 * MIB, Ordering::Relaxed);
        let mut space = Space::new(folder.path(), 4 * MIB, MIB, probe);
        assert_eq!(space.room(1_000), Room::Enough);
        FREE.store(4 * MIB, Ordering::Relaxed);
        space.limit(4 * MIB, 9 * MIB);
        assert_eq!((space.room(1_000), reserve_bytes(folder.path())), (removals(4 * MIB), MIB));
        space.limit(4 * MIB, back_to);
        assert_eq!((space.room(1_000), reserve_bytes(folder.path())), (Room::Enough, back_to));
    }
}

#[test]
fn what_a_reserve_had_that_is_now_too_large_is_free_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let probe = |_: &Path| Ok(Free::of_bytes(100 * MIB));
    for (reserve, left) in [(4 * MIB, 4 * MIB), (MIB, MIB), (0, 0)] {
        let mut space = Space::new(folder.path(), 4 * MIB, reserve, probe);
        assert_eq!((space.room(1_000), reserve_bytes(folder.path())), (Room::Enough, left));
    }
}

/// Who reads the configuration again says nothing of the disk.
#[test]
fn after_a_full_disk_nothing_is_appended_until_there_is_room_for_certain() {
    static FREE: AtomicU64 = AtomicU64::new(100 * MIB);
    let folder = tempfile::tempdir().unwrap();
    let mut space = Space::new(folder.path(), 0, 0, |_| Ok(Free::of_bytes(FREE.load(Ordering::Relaxed))));
    assert_eq!(space.room(1_000), Room::Enough);
    space.fill();
    FREE.store(MIB, Ordering::Relaxed);
    // The trial of the room finds none where a folder lies in its way.
    fs::create_dir(folder.path().join(RESERVE)).unwrap();
    space.limit(0, 0);
    assert_eq!((space.room(1_000), space.removals()), (removals(MIB), Removals::Late));
    fs::remove_dir(folder.path().join(RESERVE)).unwrap();
    FREE.store(100 * MIB, Ordering::Relaxed);
    assert_eq!((space.room(1_000), space.removals()), (Room::Enough, Removals::Soon));
}

#[test]
fn what_every_commit_meets_is_told_once_until_it_is_over() {
    static FREE: AtomicU64 = AtomicU64::new(100 * MIB);
    let folder = tempfile::tempdir().unwrap();
    let reserve = folder.path().join(RESERVE);
    let log = logged(|| {
        let mut space = Space::new(folder.path(), 4 * MIB, MIB, |_| match FREE.load(Ordering::Relaxed) {
            u64::MAX => Err(io::ErrorKind::NotFound.into()),
            bytes => Ok(Free::of_bytes(bytes)),
        });
        for _spell in 0..2 {
            fs::create_dir(&reserve).unwrap();
            for bytes in [100 * MIB, u64::MAX] {
                FREE.store(bytes, Ordering::Relaxed);
                let rooms = [(); 3].map(|()| space.room(1_000));
                assert!(rooms.iter().all(|room| *room != Room::Enough), "{bytes}: {rooms:?}");
            }
            fs::remove_dir(&reserve).unwrap();
            for (bytes, enough) in [(100 * MIB, true), (0, false)] {
                FREE.store(bytes, Ordering::Relaxed);
                assert_eq!((space.room(1_000) == Room::Enough, reserve.exists()), (enough, enough));
            }
        }
    });
    for event in ["free_unknown", "reserve_failed", "reserve_spent"] {
        assert_eq!(log.matches(event).count(), 2, "{event}: {log}");
    }
}

#[test]
fn a_reserve_that_cannot_be_given_up_is_told_once_and_one_that_is_not_there_never() {
    static FREE: AtomicU64 = AtomicU64::new(0);
    let folder = tempfile::tempdir().unwrap();
    let reserve = folder.path().join(RESERVE);
    let probe = |_: &Path| Ok(Free::of_bytes(FREE.load(Ordering::Relaxed)));
    let log = logged(|| {
        let mut space = Space::new(folder.path(), 4 * MIB, MIB, probe);
        for _spell in 0..2 {
            FREE.store(100 * MIB, Ordering::Relaxed);
            assert_eq!(space.room(1_000), Room::Enough);
            FREE.store(0, Ordering::Relaxed);
            let rooms = without_rights(folder.path(), || [(); 3].map(|()| (space.room(0), space.fill())));
            assert_eq!((rooms, reserve.exists()), ([(removals(0), false); 3], true));
            // Somebody else removes it.
            fs::remove_file(&reserve).unwrap();
            assert_eq!((space.room(0), space.fill()), (removals(0), false));
        }
    });
    assert_eq!((log.matches("reserve_stuck").count(), log.contains("reserve_spent")), (2, false), "{log}");
}

/// What is logged meanwhile.
fn logged(act: impl FnOnce()) -> String {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let writer = Arc::new(File::create(&log).unwrap());
    let subscriber = tracing_subscriber::fmt().json().with_writer(writer).finish();
    // While there is one alone, the thread that comes to a line first decides for all whether it is told: perhaps
    // another test's, which has none.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    tracing::subscriber::with_default(subscriber, act);
    fs::read_to_string(log).unwrap()
}

/// Acts as one who may look into a folder, but not change what is in it.
fn without_rights<T>(folder: &Path, act: impl FnOnce() -> T) -> T {
    let chmod = |mode| fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
    chmod(0o555);
    // Of this thread alone; an ordinary user stays who he is.
    let own = setfsuid(Uid::from_raw(65_534));
    let acted = act();
    setfsuid(own);
    chmod(0o755);
    acted
}

fn removals(bytes: u64) -> Room {
    Room::RemovalsOnly(Free::of_bytes(bytes))
}

#[test]
fn an_unknown_free_space_takes_nothing_in() {
    let mut space = Space::new(Path::new("/"), 0, 0, |_| Err(io::ErrorKind::NotFound.into()));
    assert_eq!(space.room(0), Room::RemovalsOnly(Free::of_bytes(0)));
}
