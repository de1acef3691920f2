#!/bin/sh
# What every image does, in the root of the checkout: the runtime lock, hash by hash, then the project itself.
set -eu
python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .
spreadflow --version
