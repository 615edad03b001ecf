#!/usr/bin/env bash
# Makes a local base image under a name, where no registry can be reached: Debian with its own Python.
# As root: deploy/image/base.sh python:3.11-slim-bookworm
set -euo pipefail
name=$1
release=${name##*-}                     # bookworm
root=$(mktemp -d "${TMPDIR:-/var/tmp}/base.XXXXXX")
trap 'rm -rf "$root"' EXIT

debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip,python-is-python3 \
  "$release" "$root" "${MIRROR:-http://deb.debian.org/debian}" > "$root.log"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root.log"
chroot "$root" python -c "import sys; assert sys.version_info[:2] == tuple(map(int, '${name#*:}'.split('-')[0].split('.')))"

container=$(buildah from scratch)
buildah copy --quiet "$container" "$root" /
buildah config --cmd python3 "$container"
buildah commit --quiet --format docker --rm "$container" "$name"
