//! The words that keys can be set to. Words of the contract that this version cannot do yet are known, and refused by name
//! when the configuration is checked.

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(match self { $(Self::$variant => $word,)+ })
            }
        }
    };
}

words! {
    /// How to connect to the brokers.
    SecurityProtocol {
        /// No TLS, no credentials.
        Plaintext = "plaintext",
        /// TLS, by certificate if one is given.
        Ssl = "ssl",
        /// Credentials without TLS.
        SaslPlaintext = "sasl_plaintext",
        /// TLS and credentials.
        SaslSsl = "sasl_ssl",
    }
}

words! {
    /// Where a group without offsets begins.
    Start {
        /// Nowhere: it says so and stops.
        Error = "error",
        /// At what comes from now on.
        Latest = "latest",
        /// At the oldest record.
        Earliest = "earliest",
    }
}

words! {
    /// The format of a record's value.
    Format {
        /// Whatever it looks like.
        Auto = "auto",
        /// Our own.
        Tokenrelay = "tokenrelay",
        /// OpenAI chat-completion chunks, as vLLM and others send them.
        OpenaiChat = "openai-chat",
        /// Not yet.
        OpenaiResponses = "openai-responses",
        /// Not yet.
        Anthropic = "anthropic",
        /// Not yet.
        Sglang = "sglang",
        /// Not yet.
        Tgi = "tgi",
    }
}

words! {
    /// How a response is put on its channel.
    Pattern {
        /// One message, created and appended to.
        MessagePerResponse = "message-per-response",
        /// A message for each token, framed by one that starts and one that stops.
        MessagePerToken = "message-per-token",
    }
}

words! {
    /// How tokens leave that wait together, under `message-per-token`.
    PerToken {
        /// Each as a message, all in one publish.
        Array = "array",
        /// As one message.
        Joined = "joined",
    }
}

words! {
    /// What reaches a channel.
    Include {
        /// The answer.
        Text = "text",
        /// What the model thought on the way.
        Reasoning = "reasoning",
        /// Arguments of tool calls.
        Tool = "tool",
        /// Refusals.
        Refusal = "refusal",
    }
}

words! {
    /// How operations travel.
    Transport {
        /// Over WebSocket connections.
        Realtime = "realtime",
        /// Not yet.
        Rest = "rest",
    }
}

words! {
    /// How frames are encoded.
    WireEncoding {
        /// MessagePack.
        Msgpack = "msgpack",
        /// JSON.
        Json = "json",
    }
}

words! {
    /// What to do where the channel rule for updates is off.
    NoMutable {
        /// Responses fail.
        Fail = "fail",
        /// Each is published once, as a whole, when it ends.
        Whole = "whole",
    }
}

words! {
    /// When the full text of a tainted response is sent.
    ReconcileWhen {
        /// While it streams.
        Eager = "eager",
        /// Once it has ended.
        AtEnd = "at-end",
        /// Not at all; for tests.
        Never = "never",
    }
}

words! {
    /// When the text is read back.
    Verify {
        /// Never.
        Never = "never",
        /// When nobody knows what became of an operation, and after a takeover.
        AfterUnknown = "after-unknown",
        /// Of every response.
        Always = "always",
    }
}

words! {
    /// How often a result can appear.
    Delivery {
        /// Not yet.
        ExactlyOnce = "exactly-once",
        /// Once, or more often after a crash.
        AtLeastOnce = "at-least-once",
    }
}

words! {
    /// How log lines look.
    LogFormat {
        /// One JSON object a line.
        Json = "json",
        /// For people.
        Text = "text",
    }
}
