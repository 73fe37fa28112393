# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the scripts of this folder share; they source it. Nothing happens by reading it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# No locale of the caller's changes what a tool prints, or in which order files come.
export LC_ALL=C.UTF-8

say() {
    printf '%s: %s\n' "$(basename "$0")" "$*"
}

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# packages_of GROUP...: the Debian packages that a group needs, one a line.
packages_of() {
    local group

    for group in "$@"; do
        case $group in
        build)
            printf '%s\n' build-essential meson ninja-build pkg-config liburing-dev \
                libjansson-dev libcurl4-openssl-dev libssl-dev liblz4-dev libnbd-dev libxxhash-dev \
                libmicrohttpd-dev scdoc
            ;;
        check)
            packages_of build demo
            printf '%s\n' clang libclang-rt-14-dev clang-tidy clang-format cppcheck codespell \
                shellcheck libcmocka-dev nbdkit libnbd-bin python3-libnbd fio qemu-utils prometheus \
                xfsprogs chromium spin
            ;;
        demo)
            printf '%s\n' qemu-system-x86 linux-image-cloud-amd64 busybox-static cpio python3 \
                e2fsprogs
            ;;
        *)
            die "there is no group '$group': the groups are build, check and demo"
            ;;
        esac
    done
}

# missing_packages GROUP...: those of them that are not installed, on one line.
missing_packages() {
    local wanted package missing=

    wanted=$(packages_of "$@" | sort -u) || exit 1
    while read -r package; do
        dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
            missing+=" $package"
    done <<<"$wanted"
    printf '%s' "${missing# }"
}

# ensure_packages GROUP...: run tools/setup if there is something for it to do. Where there is no
# dpkg the packages have other names: meson will say what it does not find.
ensure_packages() {
    local missing

    if command -v dpkg-query >/dev/null; then
        missing=$(missing_packages "$@") || exit 1
        [ -z "$missing" ] || "$root/tools/setup" "$@"
    fi
}

# The program as it is shipped: optimised, with symbols, and with its assertions on.
# shellcheck disable=SC2034 # for those who source this
release_options=(--buildtype=debugoptimized -Db_ndebug=false)

# And by gcc: optimised across files, since the way from a fault to its bytes leads through several.
# The objects remain usable without that, for those who link libthaw.a.
# shellcheck disable=SC2034
shipped_options=("${release_options[@]}" -Db_lto=true -Dc_args=-ffat-lto-objects)

# configure DIR CC [MESON OPTION]...: a build directory with these options; CC '' is the default.
# A directory that has them already is left alone, so that nothing is built twice. Any other (made by
# hand, by an older tree, for a tree that has moved) is begun anew, as --reconfigure takes over
# neither the compiler nor c_args; options that were given by hand stay in force.
configure() {
    local dir=$1 cc=$2 wanted wipe=

    shift 2
    wanted="$root $cc $*"
    if [ -f "$dir/meson-private/coredata.dat" ]; then
        [ "$(cat "$dir/.configured-as" 2>/dev/null)" != "$wanted" ] || return 0
        wipe=--wipe
    fi
    env ${cc:+CC="$cc"} meson setup $wipe "$@" "$dir" "$root" 2>&1 || return 1
    printf '%s\n' "$wanted" >"$dir/.configured-as"
}

# show_build_log LOG: the errors of a failed build, without what went well before.
show_build_log() {
    if grep -q '^FAILED:' "$1"; then
        sed -n '/^FAILED:/,$p' "$1" | grep -v '^cc \|^gcc \|^clang ' | head -n 60
    else
        tail -n 30 "$1"
    fi
}
