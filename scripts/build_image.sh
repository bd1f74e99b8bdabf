#!/bin/sh
# Build a container image with whichever of docker, podman and buildah is there.
#
#     scripts/build_image.sh TARGET TAG [FURTHER ARGUMENTS, such as --build-arg BASE=...]
set -eu
cd "$(dirname "$0")/.."

target=$1 tag=$2
shift 2

# A docker client without its engine is common: ask the engine, not the path.
if docker info >/dev/null 2>&1; then
    engine=docker
elif podman info >/dev/null 2>&1; then
    engine=podman
elif command -v buildah >/dev/null; then
    engine=buildah
    # Inside a container, where namespaces are refused, ISOLATION=chroot is the way.
    set -- --layers --isolation "${ISOLATION:-oci}" "$@"
else
    printf '\nerror: neither a running docker nor podman nor buildah was found. To install one:\n\n    %s\n\n' \
        "apt-get install -y buildah" >&2
    exit 1
fi
echo "Building the image $tag with $engine (the first time takes some minutes) ..."
"$engine" build "$@" --target "$target" --tag "$tag" --file Dockerfile .
"$engine" images "$tag"
