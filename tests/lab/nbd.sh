# Functions for scripts in the kernel lab: block devices over NBD, and file systems on them. Sourced, not run.
#
# A script that sources this has `set -eu -o pipefail`, and dies with the line that failed.
set -eu -o pipefail
shopt -s inherit_errexit
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND" >&2' ERR
set -E

die() {
    echo "FAILED: $*" >&2
    exit 1
}

# say WORDS: with the seconds since the kernel started.
say() {
    echo "[$(cut -d' ' -f1 /proc/uptime)] $*"
}

# wait_for WHAT COMMAND...: until COMMAND succeeds, 60 s at most.
wait_for() {
    local what=$1 end=$((SECONDS + 60))
    shift
    while [ "$SECONDS" -lt "$end" ]; do
        if "$@" 2>/dev/null; then return; fi
        sleep 0.1
    done
    die "$what did not come"
}

is_attached() {
    [ -e "/sys/block/${1#/dev/}/pid" ] && [ "$(blockdev --getsize64 "$1")" -gt 0 ]
}

is_free() {
    [ ! -e "/sys/block/${1#/dev/}/pid" ]
}

# attach DEVICE SOCKET EXPORT CONNECTIONS [OPTION...]
attach() {
    local device=$1 socket=$2 export=$3 connections=$4
    shift 4
    nbd-client -unix "$socket" -N "$export" "$device" -C "$connections" -b 4096 "$@" ||
        die "nbd-client cannot attach $export to $device with $connections connections"
    wait_for "$device" is_attached "$device"
}

detach() {
    nbd-client -d "$1"
    wait_for "the end of $1" is_free "$1"
}

# make_filesystem TYPE DEVICE
make_filesystem() {
    case $1 in
        ext4) mkfs.ext4 -q -F "$2" ;;
        xfs) mkfs.xfs -q -f "$2" ;;
        btrfs) mkfs.btrfs -q -f "$2" ;;
        *) die "no file system $1" ;;
    esac
}

# check_filesystem TYPE DEVICE: fails unless the unmounted file system is clean, and never repairs.
check_filesystem() {
    case $1 in
        ext4) e2fsck -f -n "$2" >/dev/null ;;
        xfs) xfs_repair -n "$2" >/dev/null 2>&1 ;;
        btrfs) btrfs check --readonly "$2" >/dev/null 2>&1 ;;
    esac || die "the $1 on $2 is not clean"
}

# mount_snapshot TYPE DEVICE FOLDER: read-only, without replaying what its log holds.
mount_snapshot() {
    case $1 in
        ext4) mount -t ext4 -o ro,noload "$2" "$3" ;;
        xfs) mount -t xfs -o ro,norecovery,nouuid "$2" "$3" ;;
        btrfs) mount -t btrfs -o ro,rescue=nologreplay "$2" "$3" ;; # never beside its origin
    esac
}

# layer_above DEVICE NAME: /dev/mapper/NAME is DEVICE, writable, with the changes in memory. Needs dm-snapshot, loop.
layer_above() {
    local loop
    truncate -s 256M "/dev/shm/$2"
    loop=$(losetup --show -f "/dev/shm/$2")
    dmsetup create "$2" --table "0 $(blockdev --getsz "$1") snapshot $1 $loop N 8"
    dmsetup mknodes "$2"
}

remove_layer() {
    dmsetup remove "$1"
    losetup -D
    rm "/dev/shm/$1"
}

# write_files FOLDER SEED COUNT: files whose bytes follow from the seed, with their sums beside them. Few processes,
# because starting one is slow under emulation.
write_files() {
    mkdir -p "$1"
    random_bytes "$2" $(($3 * 97531)) | split -b 97531 -d - "$1/"
    (cd "$1" && sha256sum -- [0-9]* >sums)
}

# random_bytes SEED COUNT
random_bytes() {
    openssl enc -aes-128-ctr -nosalt -pass "pass:$1" -pbkdf2 -iter 1 -in /dev/zero 2>/dev/null | head -c "$2" || true
}

# verify_files FOLDER
verify_files() {
    (cd "$1" && sha256sum --quiet -c sums) || die "the files in $1 are not what was written"
}

drop_caches() {
    echo 3 >/proc/sys/vm/drop_caches
}
