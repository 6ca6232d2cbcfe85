#!/usr/bin/env bash
# Prints the path of a Consul 1.8.7 server for the tests. The first call gets it: the package is in
# Debian bullseye and in no later release, so it is fetched from there, by the mirror that this machine's
# own apt uses, and unpacked into a folder; nothing is installed. SUBLET_CONSUL names another one.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${SUBLET_CONSUL-}" ]; then
    echo "$SUBLET_CONSUL"
    exit
fi
folder=${CARGO_TARGET_DIR:-target}/peers/consul
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
exec 9> "$folder/lock"
flock 9
if [ ! -x "$folder/consul" ]; then
    {
        mirror=$(scripts/e2e/mirror.sh)
        mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
        printf 'deb [signed-by=%s] %s bullseye main\n' \
            /usr/share/keyrings/debian-archive-keyring.gpg "$mirror" > "$folder/bullseye.list"
        apt=(apt-get -o "Dir::Etc::sourcelist=$folder/bullseye.list" -o Dir::Etc::sourceparts=/dev/null
            -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache"
            -o Acquire::Languages=none -o APT::Sandbox::User=root)
        "${apt[@]}" update
        (cd "$folder" && "${apt[@]}" download consul && dpkg -x consul_*.deb unpacked)
        mv "$folder/unpacked/usr/bin/consul" "$folder/consul"
        rm -r "$folder"/{lists,cache,unpacked} "$folder"/consul_*.deb
    } >&2
fi
echo "$folder/consul"
