#!/bin/sh
# Write locks/*.txt: every dependency with its hashes and without an index address.
# all.txt is resolved first and constrains the rest, so every image and machine runs the same versions.
set -eu
cd "$(dirname "$0")/.."
mkdir -p locks

lock() { # NAME EXTRA...
    name=$1
    shift
    constraint=""
    [ "$name" = all ] || constraint="--constraint locks/all.txt"
    # shellcheck disable=SC2046,SC2086
    .venv/bin/uv pip compile pyproject.toml $(printf -- '--extra %s ' "$@") $constraint \
        --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --quiet \
        --custom-compile-command "hack/lock.sh" --output-file "locks/$name.txt"
}

lock all operator jobs torch tensorrt server examples embeddings dev
lock base operator jobs server examples dev
lock operator operator
lock jobs jobs
lock jobs-torch torch
lock jobs-tensorrt tensorrt
lock server server

# What pip installs before anything else: uv here, and in the images setuptools, which builds the wheel, and what lists
# their packages.
for tool in uv setuptools cyclonedx-bom; do
    echo $tool | .venv/bin/uv pip compile - --constraint locks/all.txt --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --quiet --custom-compile-command "hack/lock.sh" --output-file "locks/$tool.txt"
done
