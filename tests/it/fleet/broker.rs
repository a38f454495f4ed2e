//! Kafka's part: the results partitions with their transactions, what is committed, and who may write.
//!
//! As a broker does it: a transaction's records stand in the log at once, and readers of committed ones see them when its
//! marker does; offsets come with the marker; a producer that introduces itself fences those of its name and aborts what they
//! left open; what is open for too long is aborted, and its producer fenced. Offsets of a stale generation are refused, but
//! whether a partition belongs to whoever commits it nobody checks.

use std::collections::HashMap;
use std::rc::Rc;

use crate::engine::Offset;

/// Who writes: the name of a producer and its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) name: usize,
    pub(super) epoch: u32,
}

/// An offset that is to be committed, and its metadata.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    /// Which stay of the partition with which process commits it.
    pub(super) by: (usize, u32),
    pub(super) partition: usize,
    pub(super) offset: Offset,
    pub(super) metadata: String,
}

/// What a broker refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is a newer producer of that name.
    Fenced,
    /// The group knows the member under another generation, or not at all.
    Stale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Committed,
    Aborted,
    Marker,
}

#[derive(Debug)]
struct Entry {
    state: State,
    value: Rc<[u8]>,
}

/// A results partition.
#[derive(Debug, Default)]
struct Results {
    low: Offset,
    entries: Vec<Entry>,
    /// Where it ended after each commit, and the offset that was committed then.
    commits: Vec<(usize, Option<(Offset, String)>)>,
}

/// A transaction that is not over.
#[derive(Debug, Default)]
struct Open {
    since: u64,
    entries: Vec<(usize, Offset)>,
    letters: Vec<(usize, Offset)>,
    marks: Vec<Mark>,
}

#[derive(Debug, Default)]
struct Known {
    epoch: u32,
    open: Option<Open>,
}

/// What has become visible with a commit, in order.
#[derive(Debug, Default)]
pub(super) struct Committed {
    pub(super) results: Vec<(usize, Rc<[u8]>)>,
    pub(super) letters: Vec<(usize, Offset)>,
    pub(super) marks: Vec<Mark>,
}

/// The brokers.
#[derive(Debug)]
pub(super) struct Broker {
    results: Vec<Results>,
    producers: HashMap<usize, Known>,
    pub(super) offsets: Vec<Option<(Offset, String)>>,
    pub(super) away_until: u64,
    timeout: u64,
}

impl Broker {
    pub(super) fn new(partitions: usize, timeout: u64) -> Self {
        Self {
            results: (0..partitions).map(|_| Results::default()).collect(),
            producers: HashMap::new(),
            offsets: vec![None; partitions],
            away_until: 0,
            timeout,
        }
    }

    /// A producer says its name.
    pub(super) fn introduce(&mut self, name: usize) -> Producer {
        self.abort_open(name);
        let known = self.producers.entry(name).or_default();
        known.epoch += 1;
        Producer { name, epoch: known.epoch }
    }

    fn known(&mut self, producer: Producer) -> Result<&mut Known, Refused> {
        let known = self.producers.get_mut(&producer.name);
        known.filter(|known| known.epoch == producer.epoch).ok_or(Refused::Fenced)
    }

    fn open(&mut self, now: u64, producer: Producer) -> Result<&mut Open, Refused> {
        let known = self.known(producer)?;
        Ok(known.open.get_or_insert_with(|| Open { since: now, ..Open::default() }))
    }

    /// A result is written; where.
    pub(super) fn produce(
        &mut self,
        now: u64,
        producer: Producer,
        partition: usize,
        value: Rc<[u8]>,
    ) -> Result<Offset, Refused> {
        let offset = self.high(partition);
        self.open(now, producer)?.entries.push((partition, offset));
        self.results[partition].entries.push(Entry { state: State::Open, value });
        Ok(offset)
    }

    /// A dead letter is written.
    pub(super) fn letter(&mut self, now: u64, producer: Producer, letter: (usize, Offset)) -> Result<(), Refused> {
        self.open(now, producer)?.letters.push(letter);
        Ok(())
    }

    /// Offsets are added to the transaction; `is_known` if the group knows the member as it calls itself.
    pub(super) fn add_offsets(
        &mut self,
        now: u64,
        producer: Producer,
        is_known: bool,
        marks: Vec<Mark>,
    ) -> Result<(), Refused> {
        let open = self.open(now, producer)?;
        if !is_known {
            return Err(Refused::Stale);
        }
        open.marks.extend(marks);
        Ok(())
    }

    /// The transaction is committed. Nothing if it was before.
    pub(super) fn commit(&mut self, producer: Producer) -> Result<Committed, Refused> {
        let Some(open) = self.known(producer)?.open.take() else { return Ok(Committed::default()) };
        let values = self.end(&open.entries, State::Committed);
        for Mark { partition, offset, metadata, .. } in &open.marks {
            self.offsets[*partition] = Some((*offset, metadata.clone()));
        }
        for (results, offset) in self.results.iter_mut().zip(&self.offsets) {
            results.commits.push((results.entries.len(), offset.clone()));
        }
        Ok(Committed { results: values, letters: open.letters, marks: open.marks })
    }

    /// The oldest results of a partition are not kept any longer, some of those below `needed`.
    pub(super) fn retain(&mut self, partition: usize, needed: Offset, rng: &mut fastrand::Rng) {
        let kept = rng.i64(0..=needed.min(self.stable(partition)));
        let low = &mut self.results[partition].low;
        *low = (*low).max(kept);
    }

    /// A partition of the results is as it was after some commit, and the committed offset as it was then or before, without
    /// a word. Nothing
    /// is open.
    pub(super) fn rewind(&mut self, partition: usize, rng: &mut fastrand::Rng) {
        let results = &mut self.results[partition];
        if results.commits.is_empty() {
            return;
        }
        let then = rng.usize(..results.commits.len());
        let (end, _) = results.commits[then];
        results.entries.truncate(end);
        results.low = results.low.min(end as Offset);
        // Nobody's word of then is true any more.
        if let Some((offset, _)) = results.commits[rng.usize(..=then)].1 {
            self.offsets[partition] = Some((offset, String::new()));
        }
        results.commits.truncate(then + 1);
    }

    /// Nothing of these producers is open any more.
    pub(super) fn abort_all(&mut self) {
        let mut names: Vec<usize> = self.producers.keys().copied().collect();
        names.sort_unstable();
        names.into_iter().for_each(|name| self.abort_open(name));
    }

    /// The transaction is aborted.
    pub(super) fn abort(&mut self, producer: Producer) -> Result<(), Refused> {
        self.known(producer)?;
        self.abort_open(producer.name);
        Ok(())
    }

    fn abort_open(&mut self, name: usize) {
        let open = self.producers.get_mut(&name).and_then(|known| known.open.take());
        if let Some(open) = open {
            self.end(&open.entries, State::Aborted);
        }
    }

    fn end(&mut self, entries: &[(usize, Offset)], state: State) -> Vec<(usize, Rc<[u8]>)> {
        let mut values = Vec::with_capacity(entries.len());
        let mut touched = vec![false; self.results.len()];
        for (partition, offset) in entries {
            let entry = &mut self.results[*partition].entries[*offset as usize];
            entry.state = state;
            touched[*partition] = true;
            values.push((*partition, Rc::clone(&entry.value)));
        }
        for (results, _) in self.results.iter_mut().zip(touched).filter(|(_, touched)| *touched) {
            results.entries.push(Entry { state: State::Marker, value: Rc::from(&b""[..]) });
        }
        values
    }

    /// Aborts what has been open for too long, and fences who wrote it.
    pub(super) fn expire(&mut self, now: u64) {
        let timeout = self.timeout;
        let is_late = |known: &Known| known.open.as_ref().is_some_and(|open| open.since + timeout <= now);
        let mut late: Vec<usize> = self.producers.iter().filter(|(_, known)| is_late(known)).map(|(n, _)| *n).collect();
        late.sort_unstable();
        for name in late {
            self.abort_open(name);
            if let Some(known) = self.producers.get_mut(&name) {
                known.epoch += 1;
            }
        }
    }

    /// What is committed for a partition; none while a transaction that is to change it is open.
    pub(super) fn committed(&self, partition: usize) -> Option<Option<(Offset, String)>> {
        let opens = self.producers.values().filter_map(|known| known.open.as_ref());
        let is_unstable = opens.flat_map(|open| &open.marks).any(|mark| mark.partition == partition);
        (!is_unstable).then(|| self.offsets[partition].clone())
    }

    /// Where a results partition begins.
    pub(super) fn low(&self, partition: usize) -> Offset {
        self.results[partition].low
    }

    /// Where it ends, including what is not committed.
    pub(super) fn high(&self, partition: usize) -> Offset {
        self.results[partition].entries.len() as Offset
    }

    /// Where the first open transaction begins, else the end.
    pub(super) fn stable(&self, partition: usize) -> Offset {
        let entries = &self.results[partition].entries;
        let open = entries.iter().position(|entry| entry.state == State::Open);
        open.unwrap_or(entries.len()) as Offset
    }

    /// The committed results in a range, as far as it is stable.
    pub(super) fn read(&self, partition: usize, from: Offset, end: Offset) -> impl Iterator<Item = &[u8]> {
        let end = end.min(self.stable(partition)) as usize;
        let from = (from.max(self.low(partition)) as usize).min(end);
        let entries = &self.results[partition].entries[from..end];
        entries.iter().filter(|entry| entry.state == State::Committed).map(|entry| &*entry.value)
    }
}
