#!/bin/sh
# The libraries of ROCm that JAX calls, from AMD's packages. Those for Ubuntu 22.04 need no newer C library than that of
# Debian 12.
set -eu
version=7.2
server=https://repo.radeon.com/rocm
keyring=/usr/share/keyrings/rocm.asc

apt-get update
apt-get install --yes --no-install-recommends ca-certificates curl
curl --fail --silent --show-error --output "$keyring" "$server/rocm.gpg.key"
echo "deb [arch=amd64 signed-by=$keyring] $server/apt/$version jammy main" > /etc/apt/sources.list.d/rocm.list
printf 'Package: *\nPin: release o=repo.radeon.com\nPin-Priority: 600\n' > /etc/apt/preferences.d/rocm

apt-get update
apt-get install --yes --no-install-recommends rocm-hip-libraries rocm-ml-libraries rocm-device-libs rocm-llvm
rm -rf /var/lib/apt/lists/*
