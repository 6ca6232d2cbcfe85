#!/usr/bin/env bash
# Prints the path of a file in a package of another Debian release or architecture. The first call downloads
# the package from the mirror that this machine's own apt uses, and unpacks it into a folder. Nothing is
# installed.
# Usage: unpack.sh RELEASE PACKAGE[:ARCH][=VERSION] FILE
set -euo pipefail
cd "$(dirname "$0")/../.."
release=$1
package=$2
file=$3

folder=${CARGO_TARGET_DIR:-target}/peers/$release-$package
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
exec 9> "$folder/lock"
flock 9
if [ ! -e "$folder/root/$file" ]; then
    {
        mirror=$(scripts/e2e/mirror.sh)
        mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
        printf 'deb [signed-by=%s] %s %s main\n' \
            /usr/share/keyrings/debian-archive-keyring.gpg "$mirror" "$release" > "$folder/sources.list"
        # Ignore the packages that are installed on this machine. Otherwise apt would refuse an older version.
        : > "$folder/status"
        apt=(apt-get -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null
            -o "Dir::State::lists=$folder/lists" -o "Dir::State::status=$folder/status" -o "Dir::Cache=$folder/cache"
            -o Acquire::Languages=none -o APT::Sandbox::User=root)
        case $package in
            *:*)
                arch=${package#*:}
                apt+=(-o "APT::Architectures::=${arch%%=*}")
                ;;
        esac
        "${apt[@]}" update
        (cd "$folder" && "${apt[@]}" download "$package" && dpkg -x ./*.deb unpacked)
        mv "$folder/unpacked" "$folder/root"
        rm -r "$folder"/{lists,cache,*.deb}
    } >&2
fi
echo "$folder/root/$file"
