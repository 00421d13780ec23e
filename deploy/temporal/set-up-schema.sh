#!/bin/sh
# Creates Temporal's two PostgreSQL databases and brings their schemas to this image's version. Safe to run again: a
# database that is up to date is left alone. Reads SQL_HOST, SQL_PORT, SQL_USER, SQL_PASSWORD and SQL_PLUGIN.
set -eu

main() {
  bring_up_to_date temporal postgresql/v12/temporal
  bring_up_to_date temporal_visibility postgresql/v12/visibility
}

# Updates first, and sets up only a database that has no version table: `setup-schema --version 0.0` on a database with
# data in it can set its version back to 0.0, and the next update would then replay version 1.0 on top of that data.
bring_up_to_date() {
  database=$1 schema=$2
  temporal-sql-tool --database "$database" create-database >/tmp/log 2>&1 || fail "$database could not be created"
  if ! update "$database" "$schema"; then
    grep -q 'schema_version.* does not exist' /tmp/log || fail "the schema of $database could not be updated"
    temporal-sql-tool --database "$database" setup-schema --version 0.0 >/tmp/log 2>&1 &&
      update "$database" "$schema" || fail "the schema of $database could not be set up"
  fi
  echo "$database: schema is up to date"
}

update() {
  temporal-sql-tool --database "$1" update-schema --schema-name "$2" >/tmp/log 2>&1
}

fail() {
  cat /tmp/log >&2
  if grep -q 'password authentication failed' /tmp/log; then
    echo "$1: PostgreSQL refuses TEMPER_DATABASE_PASSWORD. The password was fixed when the volume was made; put that" \
      "one into .env, or change it in PostgreSQL (ALTER USER temporal PASSWORD ...)." >&2
  else
    echo "$1: see the lines above. Nothing else was changed. If a first start was interrupted and nothing is stored" \
      "yet, 'docker compose down --volumes' and a new start help." >&2
  fi
  exit 1
}

main
