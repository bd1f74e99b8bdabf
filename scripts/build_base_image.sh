#!/bin/sh
# Make the Dockerfile's base images on a machine that can reach Debian's packages but no image registry.
# Needs root, debootstrap and buildah.
#
#     scripts/build_base_image.sh debian TAG    a minimal Debian, for BASE
#     scripts/build_base_image.sh rust TAG      the same with this machine's Rust toolchain, for BUILDER_BASE
#
#     scripts/build_image.sh cpu tessera --build-arg BASE=TAG --build-arg BUILDER_BASE=TAG
set -eu

kind=$1 tag=$2 release=${3:-bookworm}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

echo "Installing Debian $release ..."
debootstrap --variant=minbase --include=ca-certificates "$release" "$root"
# As in Debian's own slim images: no package caches, no manuals, no translations.
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*
rm -rf "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/usr/share/info/*
find "$root/usr/share/doc" -type f ! -name copyright -delete

container=$(buildah from scratch)
buildah add -q "$container" "$root" /
case $kind in
    debian) ;;
    rust)
        echo "Adding $(rustc --version) ..."
        sysroot=$(rustc --print sysroot)
        buildah add -q "$container" "$sysroot/bin" /usr/local/bin
        buildah add -q "$container" "$sysroot/lib" /usr/local/lib
        ;;
    *) echo "error: '$kind' is neither 'debian' nor 'rust'" >&2; exit 1 ;;
esac
buildah commit -q --rm "$container" "$tag"
