//! Where each partition stands: the next offset to be read, and the last mark.

use rdkafka::{Offset, TopicPartitionList};

use super::group::Committed;

/// All partitions of ours, by number.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    places: Vec<Option<Place>>,
    failed: u64,
}

#[derive(Debug)]
struct Place {
    position: i64,
    mark: Option<Mark>,
    /// A broker has confirmed some mark of it.
    told: bool,
}

/// Everything below `offset` is done with.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    offset: i64,
    metadata: String,
    /// Nobody has been told.
    fresh: bool,
    /// The offset that a broker has been told and has not confirmed.
    on_its_way: Option<i64>,
}

impl Offsets {
    pub(super) fn start(&mut self, partition: i32, position: i64) {
        let Ok(index) = usize::try_from(partition) else { return };
        if self.places.len() <= index {
            self.places.resize_with(index + 1, || None);
        }
        self.places[index] = Some(Place { position, mark: None, told: false });
    }

    pub(super) fn end(&mut self, partition: i32) {
        if let Some(place) = self.slot(partition) {
            *place = None;
        }
    }

    pub(super) fn has(&self, partition: i32) -> bool {
        usize::try_from(partition).is_ok_and(|index| matches!(self.places.get(index), Some(Some(_))))
    }

    pub(super) fn partitions(&self) -> Vec<i32> {
        self.positions().into_iter().map(|(partition, _)| partition).collect()
    }

    pub(super) fn positions(&self) -> Vec<(i32, i64)> {
        self.ours().map(|(partition, place)| (partition, place.position)).collect()
    }

    /// Whether this record is the next of a partition of ours.
    pub(super) fn accept(&mut self, partition: i32, offset: i64) -> bool {
        let Some(Some(place)) = self.slot(partition) else { return false };
        let next = offset >= place.position;
        if next {
            place.position = offset + 1;
        }
        next
    }

    /// Reading goes on at another offset.
    pub(super) fn jump(&mut self, partition: i32, position: i64) {
        if let Some(Some(place)) = self.slot(partition) {
            place.position = position;
        }
    }

    pub(super) fn mark(&mut self, partition: i32, offset: i64, metadata: &str) {
        let Some(Some(place)) = self.slot(partition) else { return };
        match &mut place.mark {
            Some(mark) if mark.offset == offset && mark.metadata == metadata => {}
            Some(mark) => {
                mark.offset = offset;
                mark.fresh = true;
                metadata.clone_into(&mut mark.metadata);
            }
            none => *none = Some(Mark { offset, metadata: metadata.to_owned(), fresh: true, on_its_way: None }),
        }
    }

    /// Every mark is to be sent, as if it were new.
    pub(super) fn mark_again(&mut self) {
        for (_, mark) in self.marks() {
            mark.fresh = true;
        }
    }

    /// The marks that are to be sent; from now on they are on their way.
    pub(super) fn unsent(&mut self, topic: &str) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, mark) in self.marks() {
            if mark.fresh && mark.on_its_way.is_none() {
                mark.fresh = false;
                mark.on_its_way = Some(mark.offset);
                add(&mut list, topic, partition, mark);
            }
        }
        list
    }

    /// The marks of these partitions that no broker has confirmed.
    pub(super) fn unconfirmed(&mut self, topic: &str, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, mark) in self.marks() {
            if partitions.contains(&partition) && (mark.fresh || mark.on_its_way.is_some()) {
                add(&mut list, topic, partition, mark);
            }
        }
        list
    }

    /// The broker has these.
    pub(super) fn confirm(&mut self, list: &TopicPartitionList) {
        for element in list.elements() {
            let Some(Some(Place { mark: Some(mark), told, .. })) = self.slot(element.partition()) else { continue };
            if element.offset() == Offset::Offset(mark.offset) {
                *told = true;
                mark.fresh = false;
                mark.on_its_way = None;
            }
        }
    }

    pub(super) fn learn(&mut self, commits: Vec<Committed>) {
        for Committed { partition, offset, done } in commits {
            self.failed += u64::from(!done);
            let Some(Some(Place { mark: Some(mark), told, .. })) = self.slot(partition) else { continue };
            if mark.on_its_way.is_some() && mark.on_its_way == offset {
                *told |= done;
                mark.on_its_way = None;
                mark.fresh |= !done;
            }
        }
    }

    /// Whether a broker has confirmed that the partition is ours.
    pub(super) fn is_told(&self, partition: i32) -> bool {
        let place = usize::try_from(partition).ok().and_then(|index| self.places.get(index));
        place.is_some_and(|place| place.as_ref().is_some_and(|place| place.told))
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    fn slot(&mut self, partition: i32) -> Option<&mut Option<Place>> {
        self.places.get_mut(usize::try_from(partition).ok()?)
    }

    fn ours(&self) -> impl Iterator<Item = (i32, &Place)> {
        (0..).zip(&self.places).filter_map(|(partition, place)| Some((partition, place.as_ref()?)))
    }

    fn marks(&mut self) -> impl Iterator<Item = (i32, &mut Mark)> {
        (0..).zip(&mut self.places).filter_map(|(partition, place)| Some((partition, place.as_mut()?.mark.as_mut()?)))
    }
}

fn add(list: &mut TopicPartitionList, topic: &str, partition: i32, mark: &Mark) {
    let mut element = list.add_partition(topic, partition);
    element.set_metadata(&mark.metadata);
    if let Err(error) = element.set_offset(Offset::Offset(mark.offset)) {
        // An offset that cannot be written down is not committed: an element without one is passed over by librdkafka.
        tracing::error!(%error, partition, offset = mark.offset, "kafka: an offset that cannot be committed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Offsets {
        let mut offsets = Offsets::default();
        offsets.start(2, 10);
        offsets
    }

    fn sent(list: &TopicPartitionList) -> Vec<(i32, Offset, String)> {
        list.elements().iter().map(|e| (e.partition(), e.offset(), e.metadata().to_owned())).collect()
    }

    #[test]
    fn records_come_once_and_in_order() {
        let mut offsets = one();
        assert!(!offsets.accept(0, 10), "not ours");
        assert!(offsets.accept(2, 10));
        assert!(!offsets.accept(2, 10), "again");
        assert!(offsets.accept(2, 14), "transactions leave gaps");
        assert_eq!(offsets.positions(), [(2, 15)]);
        offsets.end(2);
        assert!(!offsets.accept(2, 15));
    }

    #[test]
    fn a_mark_is_sent_once_and_again_when_it_fails() {
        let mut offsets = one();
        offsets.mark(2, 12, "meta");
        assert_eq!(sent(&offsets.unsent("t")), [(2, Offset::Offset(12), "meta".to_owned())]);
        assert_eq!(offsets.unsent("t").count(), 0, "on its way");
        offsets.learn(vec![Committed { partition: 2, offset: Some(12), done: false }]);
        assert_eq!((offsets.failed(), offsets.is_told(2)), (1, false));
        assert_eq!(offsets.unsent("t").count(), 1);
        offsets.learn(vec![Committed { partition: 2, offset: Some(12), done: true }]);
        assert!(offsets.is_told(2) && !offsets.is_told(1));
        assert_eq!(offsets.unsent("t").count(), 0);
        offsets.mark(2, 12, "meta");
        assert_eq!(offsets.unsent("t").count(), 0, "nothing new");
    }

    #[test]
    fn a_mark_made_while_another_is_on_its_way_follows_it() {
        let mut offsets = one();
        offsets.mark(2, 12, "");
        offsets.unsent("t");
        offsets.mark(2, 13, "");
        assert_eq!(offsets.unsent("t").count(), 0);
        offsets.learn(vec![Committed { partition: 2, offset: Some(12), done: true }]);
        assert_eq!(sent(&offsets.unsent("t")), [(2, Offset::Offset(13), String::new())]);
    }

    #[test]
    fn what_is_unconfirmed_includes_what_is_on_its_way() {
        let mut offsets = one();
        offsets.mark(2, 12, "");
        offsets.unsent("t");
        let list = offsets.unconfirmed("t", &[2]);
        assert_eq!(list.count(), 1);
        offsets.confirm(&list);
        assert_eq!(offsets.unconfirmed("t", &[2]).count(), 0);
    }

    #[test]
    fn a_former_life_of_a_partition_confirms_nothing() {
        let mut offsets = one();
        offsets.mark(2, 12, "");
        offsets.unsent("t");
        offsets.end(2);
        offsets.start(2, 20);
        offsets.mark(2, 21, "");
        offsets.learn(vec![Committed { partition: 2, offset: Some(12), done: true }]);
        assert_eq!(offsets.unsent("t").count(), 1);
    }
}
