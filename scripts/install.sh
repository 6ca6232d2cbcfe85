#!/usr/bin/env bash
# Installs bin/sublet where a runtime looks for plugins, and links in the places of those that it
# replaces. Containers may start meanwhile: each name has the old program or the new one at any time.
set -euo pipefail

usage() {
    cat << 'END'
usage: scripts/install.sh [--prefix DIR] [--as NAME]... [--from FILE]

  --prefix DIR   folder of the plugins (/opt/cni/bin)
  --as NAME      a link NAME to sublet as well: host-local, ecs-ipam or consul. May be repeated
  --from FILE    the program to install (bin/sublet)

What was there under a name before is kept beside it as NAME.old; `mv NAME.old NAME` is the way back.
END
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

prefix=/opt/cni/bin
from=$(dirname "$0")/../bin/sublet
names=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h)
            usage
            exit
            ;;
        --prefix | --as | --from)
            [ -n "${2-}" ] || fail "$1 needs a value"
            case $1 in
                --prefix) prefix=$2 ;;
                --as) names+=("$2") ;;
                --from) from=$2 ;;
            esac
            shift 2
            ;;
        *)
            usage >&2
            fail "$1 is no option"
            ;;
    esac
done
for name in "${names[@]}"; do
    case $name in
        host-local | ecs-ipam | consul) ;;
        *) fail "--as $name: sublet takes the place of host-local, ecs-ipam and consul" ;;
    esac
done
for name in sublet "${names[@]}"; do
    [ ! -d "$prefix/$name" ] || [ -L "$prefix/$name" ] || fail "$prefix/$name is a folder"
done
[ -f "$from" ] || fail "$from is missing: run scripts/build.sh first, or name a program with --from"

mkdir -p "$prefix" || fail "$prefix cannot be made: run this as root, or choose another --prefix"
# Beside its place, so that a rename puts it there. A plugin's name never begins with a dot.
new=$(mktemp -d "$prefix/.sublet.XXXXXX") ||
    fail "$prefix cannot be written: run this as root, or choose another --prefix"
trap 'rm -rf "$new"' EXIT

# place NAME: $new/NAME becomes $prefix/NAME; what was there becomes NAME.old.
place() {
    local at=$prefix/$1
    if [ -e "$at" ] || [ -L "$at" ]; then
        # A second name for it first: a rename would leave a moment without any.
        cp --archive --link --no-dereference "$at" "$new/$1.old"
        mv --force --no-target-directory "$new/$1.old" "$at.old"
        kept=", the one before is $1.old"
    else
        kept=
    fi
    mv --force --no-target-directory "$new/$1" "$at"
}

cp "$from" "$new/sublet"
chmod 0755 "$new/sublet"
# The name must not be there after a power cut without the content.
sync "$new/sublet"
CNI_COMMAND=VERSION "$new/sublet" < /dev/null > "$new/version" 2>&1 ||
    fail "$from does not run here: $(cat "$new/version")"
if [ ! -L "$prefix/sublet" ] && cmp --silent "$new/sublet" "$prefix/sublet"; then
    echo "$prefix/sublet is this one already"
else
    place sublet
    echo "$prefix/sublet installed$kept"
fi
for name in "${names[@]}"; do
    if [ "$(readlink "$prefix/$name" || true)" = sublet ]; then
        echo "$prefix/$name is a link to sublet already"
    else
        ln -s sublet "$new/$name"
        place "$name"
        echo "$prefix/$name is a link to sublet now$kept"
    fi
done
sync "$prefix"
