#!/bin/sh
# Makes target/openapi-tools: a venv with the validator, and the npm packages that generate and
# compile a TypeScript client. Does nothing when they are there and up to date.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tools=${1:-$(cd "$here/../.." && pwd)/target/openapi-tools}
wanted=$(cat "$here/requirements.txt" "$here/package.json" "$here/package-lock.json" "$here/.npmrc" | cksum)
if [ -f "$tools/ready" ] && [ "$(cat "$tools/ready")" = "$wanted" ]; then
    exit 0
fi
rm -rf "$tools"
mkdir -p "$tools/npm"
python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$tools/npm/"
(cd "$tools/npm" && npm ci --silent --ignore-scripts)
printf '%s\n' "$wanted" >"$tools/ready"
