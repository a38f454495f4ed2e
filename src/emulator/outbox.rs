//! Frames that wait for a reader: so many, and so many bytes. A reader that is slower loses its transport, not our memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::ws;
use tokio::sync::mpsc;

use super::limits::{OUTBOX_BYTES, OUTBOX_FRAMES};

/// Where frames for a reader are put.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    frames: mpsc::Sender<ws::Message>,
    bytes: Arc<AtomicUsize>,
}

/// Where they are taken from.
#[derive(Debug)]
pub(super) struct Waiting {
    frames: mpsc::Receiver<ws::Message>,
    bytes: Arc<AtomicUsize>,
}

/// The reader is too slow, or gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Both ends.
pub(super) fn outbox() -> (Outbox, Waiting) {
    let (sender, receiver) = mpsc::channel(OUTBOX_FRAMES);
    let bytes = Arc::new(AtomicUsize::new(0));
    (Outbox { frames: sender, bytes: bytes.clone() }, Waiting { frames: receiver, bytes })
}

impl Outbox {
    /// One that leads nowhere: the other end of the one that it replaces finds out.
    pub(super) fn closed() -> Self {
        outbox().0
    }

    pub(super) fn send(&self, frame: ws::Message) -> Result<(), Full> {
        let len = len(&frame);
        // Counted before it is sent: it may be taken at once.
        let before = self.bytes.fetch_add(len, Ordering::Relaxed);
        if before + len <= OUTBOX_BYTES && self.frames.try_send(frame).is_ok() {
            return Ok(());
        }
        self.bytes.fetch_sub(len, Ordering::Relaxed);
        Err(Full)
    }
}

impl Waiting {
    /// The next frame; none when every outbox is gone.
    pub(super) async fn next(&mut self) -> Option<ws::Message> {
        let frame = self.frames.recv().await?;
        Some(self.taken(frame))
    }

    /// The next frame, if one is there.
    pub(super) fn ready(&mut self) -> Option<ws::Message> {
        let frame = self.frames.try_recv().ok()?;
        Some(self.taken(frame))
    }

    fn taken(&self, frame: ws::Message) -> ws::Message {
        self.bytes.fetch_sub(len(&frame), Ordering::Relaxed);
        frame
    }
}

fn len(frame: &ws::Message) -> usize {
    match frame {
        ws::Message::Text(text) => text.len(),
        ws::Message::Binary(bytes) => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_bytes_wait_and_no_more() {
        let (outbox, mut waiting) = outbox();
        let frame = ws::Message::Binary(vec![0; OUTBOX_BYTES / 4].into());
        for _ in 0..4 {
            assert_eq!(outbox.send(frame.clone()), Ok(()));
        }
        assert_eq!(outbox.send(frame.clone()), Err(Full));
        assert!(waiting.ready().is_some());
        assert_eq!(outbox.send(frame), Ok(()));
    }

    #[tokio::test]
    async fn the_end_is_told() {
        let (outbox, mut waiting) = outbox();
        outbox.send(ws::Message::Text("last".into())).expect("there is room");
        drop(outbox);
        assert!(waiting.next().await.is_some());
        assert!(waiting.next().await.is_none());
        assert_eq!(Outbox::closed().send(ws::Message::Text("x".into())), Err(Full));
    }
}
