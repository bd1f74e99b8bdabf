#!/bin/sh
# Check that the tools a build needs are there; name the one command that installs what is missing.
set -eu

sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo "

install_command() { # PACKAGES-FOR-APT PACKAGES-FOR-OTHERS
    if command -v apt-get >/dev/null; then echo "${sudo}apt-get install -y $1"
    elif command -v dnf >/dev/null; then echo "${sudo}dnf install -y $2"
    elif command -v zypper >/dev/null; then echo "${sudo}zypper install -y $2"
    elif command -v pacman >/dev/null; then echo "${sudo}pacman -S --needed $2"
    elif [ "$(uname -s)" = Darwin ]; then echo "xcode-select --install"
    else echo "(with your package manager) install $2"
    fi
}

missing() { # WHAT WHY COMMAND
    printf '\nerror: %s not found: %s. To install it:\n\n    %s\n\n' "$1" "$2" "$3" >&2
    exit 1
}

rustup="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
command -v "${CARGO:-cargo}" >/dev/null || missing "Rust (cargo)" "it compiles Tessera" "$rustup"
needed=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' "$(dirname "$0")/../Cargo.toml")
version=$("${CARGO:-cargo}" --version | sed 's/^cargo 1\.\([0-9]*\).*/\1/')
if [ "$version" -lt "$needed" ]; then
    # A distribution's package is often older; rustup's goes before it on the path.
    if command -v rustup >/dev/null; then rustup="rustup update stable && rustup default stable"; fi
    missing "Rust 1.$needed" "cargo here is 1.$version" "$rustup"
fi
command -v "${CC:-cc}" >/dev/null ||
    missing "A C compiler (${CC:-cc})" "it compiles the JPEG decoder and links" "$(install_command "gcc libc6-dev" "gcc")"
command -v "${PYTHON:-python3}" >/dev/null ||
    missing "Python (${PYTHON:-python3})" "it fetches ONNX Runtime" "$(install_command "python3 python3-pip python3-venv" "python3")"
