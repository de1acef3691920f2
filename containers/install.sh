#!/bin/sh
# What every image does, in the root of the checkout: the packages of a lock, hash by hash, then the project itself, and
# a list of what is inside.
#   sh containers/install.sh <lock>
set -eu
lock=$1
python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r "$lock"
python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .
spreadflow --version
python -m pip --disable-pip-version-check list --format=freeze > packages.txt
dpkg-query --show > system-packages.txt
