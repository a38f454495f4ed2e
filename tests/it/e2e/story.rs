//! Responses as models write them: many at once, in several languages, with everything that text can be.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;

use crate::world::World;

/// Pieces that are easily broken: they join with what is before or after them, or must be escaped.
pub(crate) const PIECES: &[&str] = &[
    "The ",
    "answer",
    " is",
    " 42",
    ".",
    " ",
    "\n",
    "\n\n",
    "\t",
    "Größe",
    " über",
    " naïve",
    "e\u{301}",
    "日本語",
    "の文",
    "한국어",
    " Привет",
    " שלום",
    " مرحبا",
    "👩‍👩‍👧",
    "\u{200d}",
    "👍🏽",
    "```rust\n",
    "fn main() {}",
    "\n```",
    "| a | b |\n|---|---|\n",
    "\"quoted\"",
    "\\",
    "\\n",
    "</script>",
    "\u{0}",
    "\u{7f}",
    "{\"json\": [1, 2]}",
    "$$x^2$$",
    "",
    "0",
    "null",
];

/// Events a second: some at once for each of the responses that are open.
const RATE: u32 = 1_500;
/// Responses that are open at once.
const OPEN_MAX: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    End,
    Cancel,
}

pub(super) struct Response {
    pub(super) id: String,
    tokens: Vec<String>,
    ending: Ending,
    starts: bool,
}

pub(super) struct Story {
    responses: Vec<Response>,
    seed: u64,
}

impl Response {
    fn new(rng: &mut Rng, number: usize) -> Self {
        let count = rng.usize(1..60);
        Self {
            id: format!("resp-{number}-é"),
            tokens: (0..count).map(|_| PIECES[rng.usize(..PIECES.len())].to_owned()).collect(),
            ending: if rng.u8(..10) == 0 { Ending::Cancel } else { Ending::End },
            starts: rng.bool(),
        }
    }

    /// Of so many tokens of about so many bytes.
    fn sized(rng: &mut Rng, number: usize, tokens: usize, bytes: usize) -> Self {
        let mut token = || {
            let mut token = format!("{number} ");
            while token.len() < bytes {
                token += PIECES[rng.usize(..PIECES.len())];
            }
            token
        };
        let tokens = (0..tokens).map(|_| token()).collect();
        Self { id: format!("resp-{number}"), tokens, ending: Ending::End, starts: false }
    }

    pub(super) fn channel(&self) -> String {
        format!("ai:{}", self.id)
    }

    pub(super) fn text(&self) -> String {
        self.tokens.concat()
    }

    /// The text of so many tokens.
    pub(super) fn beginning(&self, tokens: usize) -> String {
        self.tokens[..tokens].concat()
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn status(&self) -> &'static str {
        match self.ending {
            Ending::End => "complete",
            Ending::Cancel => "cancelled",
        }
    }

    /// What may be said of it when it is over.
    pub(super) fn outcomes(&self) -> &'static [&'static str] {
        match self.ending {
            Ending::End => &["delivered", "reconciled"],
            Ending::Cancel => &["cancelled"],
        }
    }

    pub(super) fn events(&self) -> Vec<String> {
        let start = self.starts.then(|| json!({"type": "start"}));
        let tokens = self.tokens.iter().map(|text| json!({"type": "token", "text": text}));
        let end = json!({"type": if self.ending == Ending::End { "end" } else { "cancel" }});
        start.into_iter().chain(tokens).chain([end]).map(|event| event.to_string()).collect()
    }
}

impl Story {
    pub(super) fn new(seed: u64, count: usize) -> Self {
        Self::numbered(seed, 0..count)
    }

    /// Responses of these numbers, so that several stories have different ones.
    pub(super) fn numbered(seed: u64, numbers: std::ops::Range<usize>) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self { responses: numbers.map(|number| Response::new(&mut rng, number)).collect(), seed }
    }

    /// Responses of so many tokens of about so many bytes each.
    pub(super) fn sized(seed: u64, count: usize, tokens: usize, bytes: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let responses = (0..count).map(|number| Response::sized(&mut rng, number, tokens, bytes)).collect();
        Self { responses, seed }
    }

    /// Produces the first event of every response, then the second of every response, and so on, as fast as it goes: when
    /// they are of one length, all of them are open until the end.
    pub(super) fn produce_in_turns(&self, world: &World) {
        let partitions = world.partitions(&world.settings.tokens_topic);
        let mut events: Vec<_> = self.responses.iter().map(|response| response.events().into_iter()).collect();
        loop {
            let mut any = false;
            for (number, (response, events)) in self.responses.iter().zip(&mut events).enumerate() {
                if let Some(event) = events.next() {
                    let partition = number as i32 % partitions;
                    world.send(partition, Some(response.id.as_bytes()), Some(event.as_bytes()), &[]);
                    any = true;
                }
            }
            world.flush();
            if !any {
                return;
            }
        }
    }

    pub(super) fn responses(&self) -> &[Response] {
        &self.responses
    }

    /// Produces all of it, responses interleaved, at the pace of models.
    pub(super) async fn produce(&self, world: &World) {
        self.produce_until(world, || false).await;
    }

    /// Produces it so until it is enough, and then what has begun to its end. Gives what there is then.
    pub(super) async fn produce_until(&self, world: &World, enough: impl Fn() -> bool) -> &[Response] {
        let mut begun = 0;
        let mut rng = Rng::with_seed(self.seed);
        let partitions = world.partitions(&world.settings.tokens_topic);
        let mut waiting = self.responses.iter().enumerate();
        let mut open = Vec::new();
        let mut pace = tokio::time::interval(Duration::from_secs(1) / RATE * 15);
        loop {
            while open.len() < OPEN_MAX
                && !enough()
                && let Some((number, response)) = waiting.next()
            {
                begun = number + 1;
                open.push((number as i32 % partitions, response, response.events().into_iter()));
            }
            if open.is_empty() {
                break;
            }
            for _ in 0..15.min(open.len()) {
                let chosen = rng.usize(..open.len());
                let (partition, response, events) = &mut open[chosen];
                match events.next() {
                    Some(event) => world.send(*partition, Some(response.id.as_bytes()), Some(event.as_bytes()), &[]),
                    None => drop(open.swap_remove(chosen)),
                }
                if open.is_empty() {
                    break;
                }
            }
            pace.tick().await;
        }
        world.flush();
        &self.responses[..begun]
    }
}
