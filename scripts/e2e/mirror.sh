# shellcheck shell=bash
# The mirror of Debian that this machine's apt uses.

# Prints its address, or fails if apt names none.
debian_mirror() {
    local mirror
    mirror=$(find /etc/apt -name '*.sources' -o -name '*.list' | sort | xargs cat |
        sed -n -E 's/^(URIs: *|deb +(\[[^]]*\] +)?)([^ ]+\/debian)\/?( .*)?$/\3/p' | sed -n 1p)
    if [ -z "$mirror" ]; then
        echo "this machine's apt names no mirror of Debian" >&2
        return 1
    fi
    echo "$mirror"
}
