#!/bin/sh
# Creates the namespace with its retention and Temper's search attributes, then waits until the server takes them. Safe
# to run again: it sets the retention to what is asked for and adds what is missing. Reads TEMPORAL_ADDRESS,
# TEMPORAL_NAMESPACE and RETENTION (a duration such as 90d: how long a finished run's history is kept).
set -eu

main() {
  eventually server_is_serving
  eventually namespace_exists
  eventually retention_is_set
  eventually has_search_attribute TemperStage Keyword
  eventually has_search_attribute TemperModel Keyword
  eventually has_search_attribute TemperOutcome Keyword
  eventually has_search_attribute TemperScore Double
  eventually search_attributes_work
  echo "namespace $TEMPORAL_NAMESPACE: ready, retention $RETENTION"
}

server_is_serving() {
  temporal operator cluster health | grep -q SERVING
}

# `namespace create` alone of all commands does not read TEMPORAL_NAMESPACE: without the option it makes "default".
namespace_exists() {
  temporal operator namespace describe ||
    temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention "$RETENTION"
}

# A new namespace is "not found" for some seconds, until the frontend has read the list of namespaces again.
retention_is_set() {
  temporal operator namespace update --retention "$RETENTION"
}

has_search_attribute() {
  temporal operator search-attribute list | grep -qE "^ *$1 +$2 *$" ||
    temporal operator search-attribute create --name "$1" --type "$2"
}

# The frontend learns of new search attributes some seconds after they are made, and refuses them until then.
search_attributes_work() {
  temporal workflow count --query "TemperStage = '' AND TemperModel = '' AND TemperOutcome = '' AND TemperScore = 0"
}

# Runs a command once a second until it succeeds; after 60 failures ends the script with the last one's words.
eventually() {
  tries=60
  until "$@" >/tmp/log 2>&1; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ]; then
      cat /tmp/log >&2
      echo "$TEMPORAL_ADDRESS, namespace $TEMPORAL_NAMESPACE: still failing after a minute: $*" >&2
      exit 1
    fi
    sleep 1
  done
}

main
