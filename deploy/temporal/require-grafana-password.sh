#!/bin/sh
# Refuses to start Grafana without a password of its own.
set -eu

if [ -z "$TEMPER_GRAFANA_PASSWORD" ]; then
  echo "There is no default password for Grafana. Set TEMPER_GRAFANA_PASSWORD in .env (see .env.example)." >&2
  exit 1
fi
