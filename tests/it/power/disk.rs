//! A disk that knows what was synced: from a record it makes the images that a loss of power may leave.
//!
//! What is durable:
//! - the bytes and the length of a file: after `fsync` or `fdatasync` of it;
//! - the names in a folder: after `fsync` of that folder. A rename is one step, also between two folders.
//!
//! Of all else any part may be missing ([`Names`], [`Fate`]): names in the order of a journal, or each by itself; of a
//! file's writes all, each by itself, blocks of 4 KiB or sectors of 512 bytes, in any order among each other; its length
//! independently of its bytes, with zeros where the bytes are missing. What cannot happen: a sector that has a later write
//! and misses an earlier one to the same sector, since both lie in one page of the cache.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use target_notifyd::schedule::Random;

use super::record::Step;

const SECTOR: u64 = 512;

/// A change of a file that is not durable.
#[derive(Debug)]
enum Change {
    Write { at: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    changes: Vec<Change>,
    /// What a reader sees now.
    seen: Vec<u8>,
}

/// A change of names that is not durable; folders are known by their numbers.
#[derive(Clone, Debug)]
enum Naming {
    Add { folder: usize, name: String, node: usize },
    Remove { folder: usize, name: String },
    Move { from: (usize, String), to: (usize, String), node: usize },
}

impl Naming {
    fn places(&self) -> Vec<(usize, &str)> {
        match self {
            Self::Add { folder, name, .. } | Self::Remove { folder, name } => vec![(*folder, name)],
            Self::Move { from, to, .. } => vec![(from.0, &from.1), (to.0, &to.1)],
        }
    }
}

#[derive(Debug)]
enum Node {
    Folder,
    File(File),
}

type Tree = BTreeMap<(usize, String), usize>;

/// The disk.
pub(crate) struct Disk {
    root: String,
    nodes: Vec<Node>,
    by_inode: HashMap<u64, usize>,
    /// The names that are durable.
    durable: Tree,
    /// The names as a reader sees them now.
    seen: Tree,
    /// Changes of names in their order, each with its number.
    namings: Vec<(u64, Naming)>,
    named: u64,
    /// The number of the last change of names that is durable.
    last_durable: u64,
    /// Whether `fdatasync` makes anything durable.
    credit_data_syncs: bool,
}

/// What becomes of the names that are not durable.
#[derive(Clone, Copy, Debug)]
enum Names {
    All,
    None,
    /// A beginning of them, in their order over all folders, at least to the last one that is durable.
    Journal,
    /// Each by itself.
    Wild,
}

/// What becomes of a file's changes that are not durable.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Kept,
    Lost,
    /// The length is there, the bytes are not.
    Zeros,
    /// Each write by itself.
    Writes,
    /// Each block of so many bytes by itself.
    Blocks(u64),
    /// All but one write.
    OneMissing(usize),
    /// One write only.
    OneKept(usize),
    /// A beginning of the writes.
    Beginning(usize),
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.bits()).unwrap_or(0) % bound.max(1)
}

impl Disk {
    pub(crate) fn new(credit_data_syncs: bool) -> Self {
        Self {
            root: String::new(),
            nodes: Vec::new(),
            by_inode: HashMap::new(),
            durable: Tree::new(),
            seen: Tree::new(),
            namings: Vec::new(),
            named: 0,
            last_durable: 0,
            credit_data_syncs,
        }
    }

    /// Takes one step.
    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::Start { inode, root } if self.nodes.is_empty() => {
                self.root.clone_from(root);
                self.node(*inode, Node::Folder);
            }
            Step::Create { inode, path } => self.add(*inode, path, Node::File(File::default())),
            Step::Folder { inode, path } => self.add(*inode, path, Node::Folder),
            Step::Rename { from, to } => {
                let (from, to) = (self.place(from), self.place(to));
                let node = self.seen.remove(&from).expect("what is renamed is known");
                self.seen.insert(to.clone(), node);
                self.name(Naming::Move { from, to, node });
            }
            Step::Remove { path } => {
                let (folder, name) = self.place(path);
                self.seen.remove(&(folder, name.clone()));
                self.name(Naming::Remove { folder, name });
            }
            Step::Write { inode, at, bytes } => {
                self.change(*inode, Change::Write { at: *at, bytes: bytes.clone() });
            }
            Step::Length { inode, length } => self.change(*inode, Change::Length(*length)),
            Step::Sync { inode } => self.sync(*inode),
            Step::DataSync { inode } if self.credit_data_syncs => self.sync(*inode),
            Step::Fault { inode, operation } if operation == "sync" => self.lose(*inode),
            Step::Damage { inode, at, bytes } => self.damage(*inode, *at, bytes),
            Step::Start { .. } | Step::DataSync { .. } | Step::Fault { .. } | Step::Talk => {}
        }
    }

    fn node(&mut self, inode: u64, node: Node) -> usize {
        self.nodes.push(node);
        self.by_inode.insert(inode, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn add(&mut self, inode: u64, path: &str, node: Node) {
        let (folder, name) = self.place(path);
        let node = self.node(inode, node);
        self.seen.insert((folder, name.clone()), node);
        self.name(Naming::Add { folder, name, node });
    }

    fn name(&mut self, naming: Naming) {
        self.named += 1;
        self.namings.push((self.named, naming));
    }

    /// Whether the name of a snapshot of the engine is not durable. As it starts, it clears the segments of its log that
    /// its new snapshot frees, and does not wait until that has its name: without it, they look like damage.
    pub(crate) fn has_nameless_snapshot(&self) -> bool {
        self.namings.iter().any(|(_, naming)| match naming {
            Naming::Move { to: (_, name), .. } => name.starts_with("snap."),
            Naming::Add { .. } | Naming::Remove { .. } => false,
        })
    }

    /// The folder and the name that a path means now.
    fn place(&self, path: &str) -> (usize, String) {
        let inside =
            path.strip_prefix(&self.root).expect("the path is below the root").trim_start_matches('/');
        let (folders, name) = inside.rsplit_once('/').unwrap_or(("", inside));
        let mut folder = 0;
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            folder = self.seen[&(folder, part.to_owned())];
        }
        (folder, name.to_owned())
    }

    fn change(&mut self, inode: u64, change: Change) {
        let Some(Node::File(file)) = self.by_inode.get(&inode).map(|node| &mut self.nodes[*node]) else {
            return;
        };
        match &change {
            Change::Write { at, bytes } => put(&mut file.seen, *at, bytes),
            Change::Length(length) => file.seen.resize(usize::try_from(*length).expect("a length"), 0),
        }
        file.changes.push(change);
    }

    fn sync(&mut self, inode: u64) {
        let Some(node) = self.by_inode.get(&inode).copied() else { return };
        match &mut self.nodes[node] {
            Node::File(file) => {
                for change in file.changes.drain(..) {
                    match change {
                        Change::Write { at, bytes } => put(&mut file.durable, at, &bytes),
                        Change::Length(length) => {
                            file.durable.resize(usize::try_from(length).expect("a length"), 0);
                        }
                    }
                }
            }
            Node::Folder => self.sync_names(node),
        }
    }

    /// Makes the names of a folder durable, with what those renames need that lead into it or out of it.
    fn sync_names(&mut self, folder: usize) {
        let mut needed: BTreeSet<(usize, String)> = BTreeSet::new();
        let mut kept = Vec::new();
        let mut durable = Vec::new();
        for (number, naming) in std::mem::take(&mut self.namings).into_iter().rev() {
            let places = naming.places();
            let mine =
                places.iter().any(|(of, name)| *of == folder || needed.contains(&(*of, (*name).to_owned())));
            if mine {
                needed.extend(places.into_iter().map(|(of, name)| (of, name.to_owned())));
                durable.push((number, naming));
            } else {
                kept.push((number, naming));
            }
        }
        kept.reverse();
        self.namings = kept;
        for (number, naming) in durable.into_iter().rev() {
            apply(&mut self.durable, &naming);
            self.last_durable = self.last_durable.max(number);
        }
    }

    /// A sync failed: the system takes the pages for clean, and no later sync writes them.
    fn lose(&mut self, inode: u64) {
        let Some(Node::File(file)) = self.by_inode.get(&inode).map(|node| &mut self.nodes[*node]) else {
            return;
        };
        file.changes.retain(|change| matches!(change, Change::Length(_)));
    }

    /// Other bytes lie on the disk now, and are seen.
    fn damage(&mut self, inode: u64, at: u64, bytes: &[u8]) {
        let node = self.by_inode.get(&inode).map(|node| &mut self.nodes[*node]);
        let Some(Node::File(file)) = node else { panic!("what is damaged is known") };
        assert!(file.changes.is_empty(), "what is damaged is on the disk");
        put(&mut file.durable, at, bytes);
        put(&mut file.seen, at, bytes);
    }

    /// Whether a loss of power could take anything now.
    pub(crate) fn is_clean(&self) -> bool {
        self.namings.is_empty()
            && self.nodes.iter().all(|node| !matches!(node, Node::File(file) if !file.changes.is_empty()))
    }

    /// Makes what a loss of power may leave, in the folder `to`; says what became of what.
    pub(crate) fn image(&self, to: &Path, random: &mut Random) -> String {
        let names = [Names::All, Names::None, Names::Journal, Names::Journal, Names::Wild, Names::Wild]
            [below(random, 6)];
        let tree = self.tree(names, random);
        let mut told = format!("names: {names:?}");
        self.put_folder(&tree, 0, to, &mut |name, file| {
            let fate = fate(file, random);
            if !file.changes.is_empty() {
                told += &format!(", {name}: {fate:?} of {}", file.changes.len());
            }
            left(file, fate, random)
        });
        told
    }

    /// What a reader sees now, in the folder `to`.
    pub(crate) fn seen(&self, to: &Path) {
        self.put_folder(&self.seen, 0, to, &mut |_, file| file.seen.clone());
    }

    fn tree(&self, names: Names, random: &mut Random) -> Tree {
        let mut tree = self.durable.clone();
        let journal = self.last_durable + random.bits() % (self.named - self.last_durable + 1);
        for (number, naming) in &self.namings {
            let there = match names {
                Names::All => true,
                Names::None => false,
                Names::Journal => *number <= journal,
                Names::Wild => random.bits().is_multiple_of(2),
            };
            if there {
                apply(&mut tree, naming);
            }
        }
        tree
    }

    fn put_folder(
        &self,
        tree: &Tree,
        folder: usize,
        to: &Path,
        content: &mut dyn FnMut(&str, &File) -> Vec<u8>,
    ) {
        fs::create_dir_all(to).expect("a folder can be made");
        let mut inside: Vec<_> = tree.iter().filter(|((of, _), _)| *of == folder).collect();
        inside.sort();
        for ((_, name), node) in inside {
            let path = to.join(name);
            match &self.nodes[*node] {
                Node::Folder => self.put_folder(tree, *node, &path, content),
                Node::File(file) => write_sparse(&path, &content(name, file)),
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: u64, written: &[u8]) {
    let at = usize::try_from(at).expect("an offset");
    if bytes.len() < at + written.len() {
        bytes.resize(at + written.len(), 0);
    }
    bytes[at..at + written.len()].copy_from_slice(written);
}

fn apply(tree: &mut Tree, naming: &Naming) {
    match naming {
        Naming::Add { folder, name, node } => drop(tree.insert((*folder, name.clone()), *node)),
        Naming::Remove { folder, name } => drop(tree.remove(&(*folder, name.clone()))),
        Naming::Move { from, to, node } => {
            if tree.get(from) == Some(node) {
                tree.remove(from);
            }
            tree.insert(to.clone(), *node);
        }
    }
}

fn fate(file: &File, random: &mut Random) -> Fate {
    let one = below(random, file.changes.len());
    match below(random, 10) {
        0 => Fate::Kept,
        1 => Fate::Lost,
        2 => Fate::Zeros,
        3 | 4 => Fate::Writes,
        5 => Fate::Blocks(SECTOR),
        6 => Fate::Blocks(4_096),
        7 => Fate::OneMissing(one),
        8 => Fate::OneKept(one),
        _ => Fate::Beginning(one),
    }
}

/// The bytes of a file that are there after a loss of power.
fn left(file: &File, fate: Fate, random: &mut Random) -> Vec<u8> {
    if matches!(fate, Fate::Kept) {
        return file.seen.clone();
    }
    let mut bytes = file.durable.clone();
    if matches!(fate, Fate::Lost) {
        return bytes;
    }
    // Lengths are a journal of their own: a beginning of them is there.
    let lengths = match fate {
        Fate::Zeros | Fate::OneMissing(_) => file.changes.len(),
        _ => below(random, file.changes.len() + 1),
    };
    let mut length = bytes.len();
    // Sectors that were not written again: what came later to them is missing, too.
    let mut frozen: BTreeSet<u64> = BTreeSet::new();
    let mut frozen_from = u64::MAX;
    for (number, change) in file.changes.iter().enumerate() {
        let (at, written) = match change {
            Change::Length(new) => {
                let new_length = usize::try_from(*new).expect("a length");
                if number < lengths {
                    bytes.resize(new_length, 0);
                    length = new_length;
                } else {
                    // The file still has its old blocks there, and later writes went to new ones.
                    frozen_from = frozen_from.min(new / SECTOR);
                }
                continue;
            }
            Change::Write { at, bytes } => (*at, bytes),
        };
        let end = usize::try_from(at).expect("an offset") + written.len();
        if number < lengths {
            length = length.max(end);
        }
        let whole = match fate {
            Fate::Writes => random.bits().is_multiple_of(2),
            Fate::OneMissing(one) => number != one,
            Fate::OneKept(one) => number == one,
            Fate::Beginning(one) => number < one,
            _ => false,
        };
        let mut block_there = (u64::MAX, false);
        let mut from = at;
        while from < at + written.len() as u64 {
            let sector = from / SECTOR;
            let to = ((sector + 1) * SECTOR).min(at + written.len() as u64);
            let there = match fate {
                Fate::Blocks(size) => {
                    if block_there.0 != from / size {
                        block_there = (from / size, random.bits().is_multiple_of(2));
                    }
                    block_there.1
                }
                _ => whole,
            };
            if there && sector < frozen_from && !frozen.contains(&sector) {
                let part = usize::try_from(from - at).expect("an offset")
                    ..usize::try_from(to - at).expect("an offset");
                put(&mut bytes, from, &written[part]);
            } else {
                frozen.insert(sector);
            }
            from = to;
        }
    }
    bytes.resize(length, 0);
    bytes
}

/// Writes a file without the blocks that are all zeros: they read as zeros all the same.
fn write_sparse(path: &Path, bytes: &[u8]) {
    let file = fs::File::create(path).expect("a file can be made");
    file.set_len(bytes.len() as u64).expect("a file can be made");
    for (number, block) in bytes.chunks(1 << 16).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, (number << 16) as u64).expect("a file can be written");
        }
    }
}
