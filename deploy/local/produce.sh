#!/bin/sh
# Streams the responses of a file into a topic, again and again, as model servers would: about fifty tokens a second, the
# responses interleaved. A line of the file is a record: key, tab, value. @round@ becomes a number, so that every round
# has response ids of its own.
#
#   KAFKA=kafka:19092 TOPIC=llm.tokens.v1 produce.sh tokens.tsv
set -eu
PATH=$PATH:/opt/kafka/bin
records=$1

rounds() {
  round=$(date +%s)
  while :; do
    sed "s/@round@/$round/g" "$records" | while IFS= read -r record; do
      printf '%s\n' "$record"
      sleep 0.02
    done
    round=$((round + 1))
  done
}

# --timeout: how long the producer collects records, in milliseconds.
rounds | kafka-console-producer.sh --bootstrap-server "$KAFKA" --topic "$TOPIC" \
  --reader-property parse.key=true --timeout 5
