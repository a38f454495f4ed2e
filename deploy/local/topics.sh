#!/bin/sh
# Makes the three topics that the relay needs, where they are missing. KAFKA names a broker, PARTITIONS how many the
# topics of tokens and results get: results needs at least as many as tokens. A dead letter is longer than the record
# that it was, by its headers, so its topic takes longer records.
set -eu
PATH=$PATH:/opt/kafka/bin

make() {
  topic=$1
  shift
  kafka-topics.sh --bootstrap-server "$KAFKA" --create --if-not-exists --topic "$topic" "$@"
}

make llm.tokens.v1 --partitions "$PARTITIONS"
make llm.tokens.results.v1 --partitions "$PARTITIONS"
make llm.tokens.dead-letters.v1 --partitions 1 --config max.message.bytes=1114176
