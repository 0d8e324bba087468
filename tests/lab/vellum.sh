# The kernel's NBD client and three file systems against Vellum's server: bash vellum.sh BINARY.
#
# Prints a line for each thing that worked, and stops at the first that did not.
source pool.sh

vellum=$1
pool=/mnt/pool/p

# write_and_check TYPE VOLUME: what fsync and sync promised is there after a new mount, and the file system is clean.
write_and_check() {
    make_filesystem "$1" /dev/nbd0
    mount /dev/nbd0 /mnt/volume
    write_files /mnt/volume/first "$2" 20
    dd if=/mnt/volume/first/01 of=/mnt/volume/synced bs=64k conv=fsync status=none
    sync -f /mnt/volume
    umount /mnt/volume
    check_filesystem "$1" /dev/nbd0
    drop_caches
    mount /dev/nbd0 /mnt/volume
    verify_files /mnt/volume/first
    cmp /mnt/volume/first/01 /mnt/volume/synced
}

# trim_gives_back VOLUME: the mounted file system loses a file, and the pool its blocks.
trim_gives_back() {
    local full
    random_bytes "$1-large" $((16 << 20)) >/mnt/volume/large
    sync -f /mnt/volume
    full=$(used_bytes)
    rm /mnt/volume/large
    sync -f /mnt/volume
    fstrim /mnt/volume
    must_use_fewer_than "$full" fstrim
}

# snapshot_mounted TYPE VOLUME: snapshots of the mounted volume, frozen and not; then the origin changes.
snapshot_mounted() {
    fsfreeze -f /mnt/volume
    vellum snapshot create "$2@frozen"
    fsfreeze -u /mnt/volume
    sync -f /mnt/volume
    vellum snapshot create "$2@running"
    write_files /mnt/volume/second "$2-second" 20
    rm -r /mnt/volume/first
    sync -f /mnt/volume
}

# What btrfs has mounted once it does not mount again from elsewhere: its origin has to go first.
hide_origin() {
    umount /mnt/volume
    detach /dev/nbd0
    btrfs device scan -u >/dev/null
}

# read_snapshots TYPE VOLUME
read_snapshots() {
    attach /dev/nbd1 "$socket" "$2@frozen" 1
    [ "$(blockdev --getro /dev/nbd1)" = 1 ] || die "a snapshot can be written"
    mount_snapshot "$1" /dev/nbd1 /mnt/snapshot
    has_first /mnt/snapshot
    umount /mnt/snapshot
    detach /dev/nbd1

    # Not frozen, so its log has to be replayed, on a layer above it.
    attach /dev/nbd1 "$socket" "$2@running" 1
    layer_above /dev/nbd1 layer
    if [ "$1" = xfs ]; then mount -o nouuid /dev/mapper/layer /mnt/snapshot; else mount /dev/mapper/layer /mnt/snapshot; fi
    has_first /mnt/snapshot
    umount /mnt/snapshot
    check_filesystem "$1" /dev/mapper/layer
    remove_layer layer
    detach /dev/nbd1
}

has_first() {
    verify_files "$1/first"
    [ ! -e "$1/second" ] || die "the snapshot has what was written later"
}

# exercise TYPE CONNECTIONS
exercise() {
    local type=$1 connections=$2 volume=$1-$2
    vellum volume create "$volume" --size 512M
    attach /dev/nbd0 "$socket" "$volume" "$connections"
    [ "$(blockdev --getsize64 /dev/nbd0)" = $((512 << 20)) ] || die "wrong size"
    write_and_check "$type" "$volume"
    say "$volume: written, clean, read again"
    trim_gives_back "$volume"
    say "$volume: fstrim gives blocks back"
    snapshot_mounted "$type" "$volume"
    [ "$type" != btrfs ] || hide_origin
    read_snapshots "$type" "$volume"
    if [ "$type" = btrfs ]; then
        btrfs device scan -u >/dev/null
        attach /dev/nbd0 "$socket" "$volume" "$connections"
        mount /dev/nbd0 /mnt/volume
    fi
    say "$volume: snapshots hold what was there"
    verify_files /mnt/volume/second
    umount /mnt/volume
    check_filesystem "$type" /dev/nbd0
    detach /dev/nbd0
}

# survives SIGNAL VOLUME: the server ends and comes back, with everything.
survives() {
    stop "$1"
    serve
    attach /dev/nbd0 "$socket" "$2" 4
    mount /dev/nbd0 /mnt/volume
    verify_files /mnt/volume/second
    umount /mnt/volume
    detach /dev/nbd0
    say "$2: there after the server's $1"
}

discard_gives_back() {
    local before
    attach /dev/nbd0 "$socket" "$1" 4
    before=$(used_bytes)
    blkdiscard /dev/nbd0
    must_use_fewer_than "$before" blkdiscard
    cmp -n $((16 << 20)) /dev/nbd0 /dev/zero
    detach /dev/nbd0
    say "$1: blkdiscard gives blocks back"
}

place_pool
vellum pool create --size 1G
serve
exercise ext4 1
exercise ext4 4
exercise xfs 4
exercise btrfs 4
survives TERM ext4-4
survives KILL ext4-4
discard_gives_back ext4-4
stop TERM
say "all worked"
