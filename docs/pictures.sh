#!/usr/bin/env bash
# The pictures of the console in docs/pictures. Usage:
#   docs/pictures.sh           runs the demo, takes them all anew, and notes of which page they are
#   docs/pictures.sh --check   says whether they are of the page as it is; 1 if not
set -euo pipefail
cd "$(dirname "$0")/.."

folder=docs/pictures
stamp=$folder/page.sha256
of_page() { cat crates/console/page/* | sha256sum | cut -d' ' -f1; }

if [ "${1:-}" = --check ]; then
  [ "$(of_page)" = "$(cat "$stamp" 2>/dev/null)" ] && echo "the pictures are of this page" && exit
  echo "the page has changed since its pictures were taken; run docs/pictures.sh"
  exit 1
fi

target=${CARGO_TARGET_DIR:-target}
demo=${DEMO:-}
if [ -z "$demo" ]; then
  cargo build --release --example ecommerce_demo
  demo=$target/release/examples/ecommerce_demo
fi
cargo build -p gusset-console --example pictures

log=$(mktemp)
"$demo" --headless --port 0 --seconds 180 >"$log" 2>&1 &
running=$!
trap 'kill $running 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 600); do
  url=$(sed -n 's|.*to look at: \(http://[^ ]*\).*|\1|p' "$log")
  [ -n "$url" ] && break
  kill -0 $running || { cat "$log"; exit 1; }
  sleep 0.1
done
# By then customers shop, and something fails.
sleep "${AT:-60}"
"$target/debug/examples/pictures" "$url" "$folder"
of_page >"$stamp"
