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
    set -- docker build "$@"
elif command -v buildah >/dev/null; then
    # In a container of its own, where namespaces are refused, ISOLATION=chroot is the way.
    set -- buildah build --layers --isolation "${ISOLATION:-oci}" "$@"
elif command -v podman >/dev/null; then
    set -- podman build "$@"
else
    printf '\nerror: neither a running docker nor podman nor buildah was found. To install one:\n\n    apt-get install -y buildah\n\n' >&2
    exit 1
fi
echo "Building the image $tag with $1 (the first time takes some minutes) ..."
"$@" --target "$target" --tag "$tag" --file Dockerfile .
"$1" images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep -F "$tag" || true
