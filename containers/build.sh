#!/bin/sh
# Builds an image and mounts it, where neither Docker nor a registry of images is at hand. Needs root and buildah.
#   sh containers/build.sh [cpu|cuda|rocm] [base]
# base: an image whose `python` is Python 3.11. Without one it is made of Debian's packages, once, by debootstrap.
# What is printed is the folder where the image is mounted: containers/README.md shows how to enter it.
set -eu
cd "$(dirname "$0")/.."
name=${1:-cpu}
base=${2:-}
image=localhost/spreadflow:$name
container=spreadflow-$name
exec 3>&1 1>&2

make_base() {
    layer=$(buildah from scratch)
    root=$(buildah mount "$layer")
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root"
    chroot "$root" python3 -m venv /usr/local  # `python` and `pip`, as the images called python have them
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$layer"
    buildah commit --quiet --rm "$layer" "$1"
}

exists() {
    buildah inspect --type "$1" "$2" > /dev/null 2>&1
}

if [ -z "$base" ]; then
    base=localhost/python:3.11-bookworm
    exists image "$base" || make_base "$base"
fi

if exists container "$container"; then buildah rm "$container"; fi
if exists image "$image"; then buildah rmi "$image"; fi

# The host's settings of pip and its certificates are lent to the build, and stay out of the image.
set --
for path in /etc/pip.conf /etc/ssl/certs; do
    if [ -e "$path" ]; then set -- "$@" --volume "$path:$path:ro"; fi
done
buildah bud --isolation chroot --network host --layers=false "$@" \
    --build-arg BASE="$base" --file "containers/$name.Dockerfile" --tag "$image" .

buildah from --pull-never --name "$container" "$image"
buildah mount "$container" >&3
