# Functions for scripts in the kernel lab: a pool and its server. Sourced, not run; `vellum` is the program under test, `pool`
# the pool's directory below /mnt/pool.
source nbd.sh

mkdir -p /mnt/pool /mnt/volume /mnt/snapshot

# place_pool: the first scratch disk, with ext4, because memory file systems know no direct access; without a disk
# memory.
place_pool() {
    if [ -b /dev/vda ]; then
        mkfs.ext4 -q -F /dev/vda
        mount /dev/vda /mnt/pool
    else
        mount -t tmpfs tmpfs /mnt/pool
    fi
}

vellum() {
    "$vellum" --pool "$pool" "$@"
}

# serve [PREFIX...]: PREFIX runs the server, as in `setpriv OPTION...`.
serve() {
    socket=$pool/nbd.sock
    rm -f "$socket"
    "$@" "$vellum" --pool "$pool" serve &
    server=$!
    wait_for "the server's socket" test -S "$socket"
}

# stop SIGNAL: ends the server, whatever status it ends with.
stop() {
    kill -s "$1" "$server"
    wait "$server" || true
}

# status KEY: a number or a word of the pool's status.
status() {
    local found
    found=$(vellum pool status --json | grep -o "\"$1\": *[^,}]*") || die "no $1 in the pool's status"
    found=${found#*:}
    found=${found//[\" ]/}
    echo "$found"
}

used_bytes() {
    status used_bytes
}

uses_fewer_than() {
    [ "$(used_bytes)" -lt "$1" ]
}

# Freeing may follow the discard a little later.
must_use_fewer_than() {
    wait_for "less than $1 used bytes after $2" uses_fewer_than "$1"
}
