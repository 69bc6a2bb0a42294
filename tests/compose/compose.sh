#!/usr/bin/env bash
# The deployment of docker-compose.yml, for real: builds the image, starts
# everything, replicates through two writers, kills one of them in the middle
# while two more join, and compares the tables with the database. Leaves nothing
# behind but images. TIDEWATER_IMAGE names one that is built already. Called by
# `./build.sh compose`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
source "$root/tests/parts/parts.sh"
source "$here/engine.sh"
"$root/tests/parts/venv.sh"
"$root/tests/parts/iceberg.sh"

work=$(mktemp -d)
project=tidewater-test-$$
compose=(docker compose)
docker compose version >/dev/null 2>&1 || compose=(docker-compose)
compose() { "${compose[@]}" --project-name "$project" --file "$root/docker-compose.yml" "$@"; }

finish() {
  local outcome=$?
  [[ $outcome -eq 0 ]] || compose logs --tail 30 2>/dev/null | tail -150 || true
  compose down --volumes --remove-orphans >/dev/null 2>&1 || true
  engine_stop || true
  rm -rf "$work"
  exit $outcome
}
trap finish EXIT

# until_true <what> <command…>: waits for a condition, not for a time.
until_true() {
  local what=$1
  shift
  for _ in {1..240}; do
    "$@" >/dev/null 2>&1 && return
    sleep 0.25
  done
  die "waited in vain: $what"
}

psql() { compose exec -T postgres psql -U postgres -qAt -v ON_ERROR_STOP=1 "$@"; }
run() { compose run --rm -T orchestrator "$@"; }
writers() { compose ps -q writer-svc; }
# staged <container>: how many chunks it has staged.
staged() { docker logs "$1" 2>&1 | grep -c '"message":"staged"' || true; }
has_staged() { [[ $(staged "$1") -gt 0 ]]; }
healthy() { [[ $(docker inspect --format '{{.State.Health.Status}}' "$1") == healthy ]]; }

engine_start
engine_images
if [[ -z ${TIDEWATER_IMAGE:-} ]]; then
  say "building the image (the first time takes long)"
  export TIDEWATER_IMAGE=tidewater:test
  compose build --quiet source-svc >"$work/build.log" 2>&1 || { tail -40 "$work/build.log" >&2; die "the image's build failed"; }
fi

export TIDEWATER_SECRETS=$work/secrets TIDEWATER_CONFIGS=$work/configs TIDEWATER_LOG=info,writer_svc=debug
mkdir -p "$TIDEWATER_SECRETS" "$TIDEWATER_CONFIGS"
for name in token postgres s3; do openssl rand -hex 24 >"$TIDEWATER_SECRETS/$name"; done
cp "$here"/configs/*.json "$TIDEWATER_CONFIGS/"
# The services are not root, and the orchestrator writes streams.json there.
chmod 755 "$work"
chmod 777 "$TIDEWATER_CONFIGS"
chmod 644 "$TIDEWATER_SECRETS"/* "$TIDEWATER_CONFIGS"/*

say "starting the stack"
compose up -d
for service in postgres catalog s3 source-svc writer-svc; do
  for container in $(compose ps -q "$service"); do
    until_true "$service is healthy" healthy "$container"
  done
done
[[ $(writers | wc -l) -eq 2 ]] || die "there are $(writers | wc -l) writers, not 2"
for container in $(compose ps -q source-svc) $(writers); do
  [[ $(docker inspect --format '{{.Config.User}}{{.HostConfig.ReadonlyRootfs}}' "$container") == tidewatertrue ]] ||
    die "a service runs as root or can write its file system"
done

psql <"$here/tables.sql"
run discover --config /configs/source.json >/dev/null
python=$TIDEWATER_PARTS/iceberg/bin/python
"$python" "$here/gate.py" "$TIDEWATER_CONFIGS/streams.json"
sync=(sync --config /configs/source.json --catalog /configs/streams.json --destination /configs/destination.json --no-progress)

say "a sync, of which one writer does not see the end and two only that"
psql -c "SELECT pg_advisory_lock(2); SELECT pg_sleep(600)" >/dev/null 2>&1 &
holder=$!
until_true "the gate is shut" psql -c "SELECT 1/count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = 2"
run "${sync[@]}" >"$work/sync.log" 2>&1 &
syncing=$!
mapfile -t first < <(writers)
for writer in "${first[@]}"; do until_true "each writer has staged something" has_staged "$writer"; done
docker kill "${first[0]}" >/dev/null
compose up -d --no-recreate --scale writer-svc=4 >"$work/scale.log" 2>&1
until_true "the sync finds the writers that joined" grep -q "another writer" "$work/sync.log"
psql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()" >/dev/null
wait "$holder" || true
wait "$syncing" || { cat "$work/sync.log" >&2; die "the sync failed"; }
joined=0
for writer in $(writers); do
  [[ " ${first[*]} " == *" $writer "* ]] && continue
  has_staged "$writer" || die "a writer that joined was not used"
  joined=$((joined + 1))
done
[[ $joined -eq 2 ]] || die "$joined writers joined, not 2"

address() { docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(compose ps -q "$1")"; }
compare() { "$python" "$here/compare.py" "$(address postgres)" "$(address catalog)" "$(address s3)" "$TIDEWATER_SECRETS"; }
compare

say "another sync, through all of them"
psql -c "UPDATE a SET v = 'new' WHERE id % 3 = 0; DELETE FROM b WHERE id < 10"
run "${sync[@]}" >"$work/sync.log" 2>&1 || { cat "$work/sync.log" >&2; die "the second sync failed"; }
compare
say "the deployment works: one of two writers was killed, two that joined were used, the tables equal the database"
