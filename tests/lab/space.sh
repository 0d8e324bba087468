# Pools and hosts that run full under the kernel's NBD client: bash space.sh BINARY.
#
# Prints a line for each thing that worked, and stops at the first that did not. Pools are small, because everything is
# slow under emulation: 64 MiB, of which the log takes 4.
source pool.sh

vellum=$1
pool=
OWN_MIB=80 # what is written, more than a pool has

# Writes wait for a moment, too, while blocks are made ready.
somebody_waits() {
    [ "$(status space_state)" = out-of-space ] && [ "$(status waiting_writes)" -gt 0 ]
}

nobody_waits() {
    [ "$(status waiting_writes)" = 0 ]
}

host_kib() {
    echo $(($(stat -L -c %b "$pool/data") / 2))
}

takes_less_than() {
    [ "$(host_kib)" -lt "$1" ]
}

# make_pool NAME SETTING...
make_pool() {
    pool=/mnt/pool/$1
    shift
    vellum pool create --size 64M --no-auto-extend >/dev/null
    vellum pool set "$@" >/dev/null
    vellum volume create disk --size 256M >/dev/null
}

# mount_volume: data that cannot be written stops the journal, whose own blocks are not there yet either. Reading must not
# need the journal, which may wait for data that waits for space: noatime.
mount_volume() {
    attach /dev/nbd0 "$socket" disk 4
    mkfs.ext4 -q -F -E lazy_journal_init=1 /dev/nbd0
    mount -o noatime,errors=remount-ro,data_err=abort,dioread_lock /dev/nbd0 /mnt/volume
    write_files /mnt/volume/kept kept 20
    sync -f /mnt/volume
}

unmount_volume() {
    umount /mnt/volume
    detach /dev/nbd0
}

# write_much: in the background, more than the pool has, flushed; `writer` is its process.
write_much() {
    random_bytes much $((OWN_MIB << 20)) >/dev/shm/much
    dd if=/dev/shm/much of=/mnt/volume/much bs=1M conv=fsync status=none &
    writer=$!
}

no_errors_since() {
    ! dmesg | tail -n +"$1" | grep -E 'I/O error|EXT4-fs error|Buffer I/O|aborted|remount'
}

# must_wait_for_space SECONDS: the writer waits, and the status says so.
must_wait_for_space() {
    wait_for "a write that waits for space" somebody_waits
    sleep "$1"
    [ -e "/proc/$writer" ] || die "the writer has ended"
    somebody_waits || die "nobody waits any more"
}

# must_have_all: the writer ends well, and everything is there after a new mount.
must_have_all() {
    wait "$writer" || die "the writer failed"
    umount /mnt/volume
    check_filesystem ext4 /dev/nbd0
    drop_caches
    mount /dev/nbd0 /mnt/volume
    verify_files /mnt/volume/kept
    cmp /dev/shm/much /mnt/volume/much
}

stall_and_extend() {
    local lines
    lines=$(($(dmesg | wc -l) + 1))
    make_pool stall no-space=stall no-space-timeout=0
    serve
    mount_volume
    write_much
    must_wait_for_space "${VELLUM_STALL_SECONDS:-5}"
    verify_files /mnt/volume/kept
    vellum pool extend 256M >/dev/null
    must_have_all
    no_errors_since "$lines" || die "the kernel saw errors"
    unmount_volume
    stop TERM
    vellum pool check >/dev/null
    say "stalled, extended: nothing failed"
}

# fstrim_gives_back: what the file system of the first pool loses, the host has.
fstrim_gives_back() {
    local full
    pool=/mnt/pool/stall
    serve
    attach /dev/nbd0 "$socket" disk 4
    mount /dev/nbd0 /mnt/volume
    full=$(host_kib)
    rm /mnt/volume/much
    sync -f /mnt/volume
    fstrim /mnt/volume
    wait_for "the host's space after fstrim" takes_less_than $((full - (OWN_MIB - 8) * 1024))
    say "fstrim: $full KiB on the host before, $(host_kib) after"
    unmount_volume
    stop TERM
    vellum pool check >/dev/null
}

# is_read_only: not every kernel says so in /proc/mounts, but all refuse. The journal gets something to write.
is_read_only() {
    local said
    said=$( (touch "/mnt/volume/$RANDOM" && sync -f /mnt/volume) 2>&1) || true
    [[ $said == *"Read-only file system"* ]]
}

time_out_and_repair() {
    make_pool time-out no-space=stall no-space-timeout="${VELLUM_STALL_SECONDS:-3}"
    serve
    mount_volume
    write_much
    ! wait "$writer" || die "the writer was not told that there was no room"
    wait_for "the file system's going read-only" is_read_only
    say "timed out: the writer has an error, the file system is read-only"
    verify_files /mnt/volume/kept
    umount /mnt/volume
    vellum pool extend 256M >/dev/null
    wait_for "the end of all waiting" nobody_waits
    # 1: errors were there and are corrected.
    e2fsck -f -y /dev/nbd0 >/dev/null 2>&1 || [ $? = 1 ] || die "fsck does not repair the file system"
    check_filesystem ext4 /dev/nbd0
    drop_caches
    mount /dev/nbd0 /mnt/volume
    verify_files /mnt/volume/kept
    cp /dev/shm/much /mnt/volume/again
    sync -f /mnt/volume
    cmp /dev/shm/much /mnt/volume/again
    unmount_volume
    stop TERM
    vellum pool check >/dev/null
    say "extended: fsck repaired, what was flushed is there"
}

# quota_stalls: the host refuses with EDQUOT.
quota_stalls() {
    local lines folder=/mnt/quota
    lines=$(($(dmesg | wc -l) + 1))
    mkdir "$folder"
    truncate -s 512M /mnt/pool/xfs
    mkfs.xfs -q /mnt/pool/xfs
    mount -o loop,uquota /mnt/pool/xfs "$folder"
    xfs_quota -x -c 'limit bhard=64m 1000' "$folder"
    pool=$folder/pool
    install -d -o 1000 -g 1000 "$pool"
    local as_user="setpriv --reuid 1000 --regid 1000 --clear-groups"
    $as_user "$vellum" --pool "$pool" pool create --size 256M --no-auto-extend >/dev/null
    $as_user "$vellum" --pool "$pool" pool set no-space=stall no-space-timeout=0 >/dev/null
    $as_user "$vellum" --pool "$pool" volume create disk --size 256M >/dev/null
    # shellcheck disable=SC2086 # one word an option
    serve $as_user
    mount_volume
    write_much
    must_wait_for_space 2
    xfs_quota -x -c 'limit bhard=400m 1000' "$folder"
    must_have_all
    no_errors_since "$lines" || die "the kernel saw errors"
    unmount_volume
    stop TERM
    umount "$folder"
    say "a quota: stalled, raised, nothing failed"
}

place_pool
stall_and_extend
time_out_and_repair
quota_stalls
fstrim_gives_back
say "all worked"
