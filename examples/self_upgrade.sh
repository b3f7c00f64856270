#!/usr/bin/env bash
# Version 1 of a program finds version 2, verifies it and moves to it, while it is asked all the time.
# Needs minisign, python3 and curl. Arguments go to cargo build; default: --release --features fetch
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- --release --features fetch
port=${PORT:-3000}
work=$(mktemp -d)
started=()
finish() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap finish EXIT
mkdir "$work/www"

# Whoever has the secret key can make every running program move to what it likes: keep it off the servers.
minisign -G -W -p "$work/key.pub" -s "$work/key" >/dev/null
APP_KEY=$(tail -n 1 "$work/key.pub")
export APP_KEY

# Prints the path of the program.
build() {
    APP_VERSION=$1 cargo build --quiet "${@:2}" --example self_upgrade --message-format json |
        python3 -c 'import json, sys
for line in sys.stdin:
    path = json.loads(line).get("executable")
    if path: print(path)'
}
# Signs it and puts it where the program looks: the signature first, each in one step.
publish() {
    cp "$1" "$work/app.new"
    minisign -S -W -s "$work/key" -m "$work/app.new" -x "$work/app.minisig" >/dev/null
    mv "$work/app.minisig" "$work/www/app.minisig"
    mv "$work/app.new" "$work/www/app"
}

one=$work/app
cp "$(build 1.0.0 "$@")" "$one"
publish "$one"
python3 -u -m http.server 0 --bind 127.0.0.1 --directory "$work/www" >"$work/http.log" 2>&1 &
started+=($!)
for _ in $(seq 100); do
    www=$(sed -n 's/.*port \([0-9]*\).*/\1/p' "$work/http.log")
    [ -z "$www" ] || break
    sleep 0.1
done
APP_URL=http://127.0.0.1:$www/app APP_BIND=127.0.0.1:$port "$one" &
started+=($!)
echo "== version 1 is running as $!"

cp "$(build 2.0.0 "$@")" "$work/two"
echo "== publishing version 2"
publish "$work/two"
asked=0 lost=0 answer=
for _ in $(seq 3000); do
    asked=$((asked + 1))
    answer=$(curl -sS --max-time 10 "http://127.0.0.1:$port/") || lost=$((lost + 1))
    [[ $answer != "version 2.0.0"* ]] || break
    sleep 0.01
done
# The trial of the new worker, and a little more.
for _ in $(seq 300); do
    asked=$((asked + 1))
    answer=$(curl -sS --max-time 10 "http://127.0.0.1:$port/") || lost=$((lost + 1))
    sleep 0.01
done
echo "== $answer"
echo "== $asked requests, $lost lost"
cmp "$one" "$work/two"
[[ $answer == "version 2.0.0"* ]] && [ "$lost" = 0 ]
