#!/bin/sh
# validate.sh document.json: holds the document against OpenAPI 3.1, then generates a TypeScript
# client from it and compiles sample.ts with that. Needs what prepare.sh makes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tools=$(cd "$here/../.." && pwd)/target/openapi-tools
document=$1
if [ ! -f "$tools/ready" ]; then
    echo "the tools are missing: run tests/openapi/prepare.sh" >&2
    exit 3
fi
"$tools/venv/bin/openapi-spec-validator" --errors all "$document"
work=$(mktemp -d "$tools/npm/check.XXXXXX")
trap 'rm -rf "$work"' EXIT
cp "$here/sample.ts" "$work/"
cd "$tools/npm"
./node_modules/.bin/openapi-typescript "$document" --output "$work/schema.d.ts"
./node_modules/.bin/tsc --noEmit --strict --target es2022 --module esnext --moduleResolution bundler \
    --lib es2022,dom "$work/sample.ts"
