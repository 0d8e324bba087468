# Two pools in the kernel. vda and vdb: metadata that we wrote, and its data. vdc and vdd: empty, for a pool that only the
# kernel has ever written.
set -euo pipefail
export DM_DISABLE_UDEV=1
dmsetup() { command dmsetup --noudevsync "$@"; }
node() { dmsetup mknodes "$1"; }

# expect DEVICE BLOCK TEXT: the 64 KiB block starts with the text.
expect() {
    local found
    found=$(dd if="/dev/mapper/$1" bs=64k skip="$2" count=1 iflag=direct status=none | head -c "${#3}" | tr '\0' '.')
    [ "$found" = "$3" ] || { echo "$1 block $2: '$found' and not '$3'"; exit 1; }
}

# put DEVICE BLOCK TEXT: 4 KiB that start with the text.
put() {
    { printf %s "$3"; head -c $((4096 - ${#3})) /dev/zero; } |
        dd of="/dev/mapper/$1" bs=4k seek=$(($2 * 16)) count=1 iflag=fullblock oflag=direct conv=notrunc status=none
}

pool() {
    dmsetup create "$1" --table "0 $(blockdev --getsz "$3") thin-pool $2 $3 128 0"
    node "$1"
}

thin() {
    dmsetup create "$2" --table "0 $((2048 * 128)) thin /dev/mapper/$1 $3"
    node "$2"
}

echo "== metadata that we wrote"
pool ours /dev/vda /dev/vdb
dmsetup status ours
thin ours one 1
thin ours two 2
thin ours three 3
thin ours four 4
expect one 0 "data block 0."
expect one 150 "data block 150."
expect one 299 "data block 299."
expect two 199 "data block 199."
expect two 1000 "data block 500."
expect two 250 "................"
expect three 0 "................"

# Shared blocks are copied, exclusive ones are not.
put one 10 "one in the kernel"
expect two 10 "data block 10."
expect one 10 "one in the kernel"
put two 20 "two in the kernel"
expect one 20 "data block 20."
expect four 20 "data block 20."
put one 250 "one overwritten"
dd if=/dev/vdb bs=64k skip=250 count=1 iflag=direct status=none | grep -qa "one overwritten"

dmsetup suspend one
dmsetup message ours 0 "create_snap 7 1"
dmsetup resume one
thin ours seven 7
put one 250 "one after snapshot"
put seven 0 "seven alone"
put three 5 "three has something"
expect seven 250 "one overwritten"
expect one 0 "data block 0."
expect two 0 "data block 0."
blkdiscard -o $((30 * 65536)) -l 65536 /dev/mapper/two
expect four 30 "data block 30."
dmsetup remove seven
dmsetup message ours 0 "set_transaction_id 12 13"
for name in one two three four; do dmsetup remove "$name"; done
dmsetup status ours
dmsetup remove ours

echo "== metadata of the kernel's own"
pool theirs /dev/vdc /dev/vdd
dmsetup message theirs 0 "create_thin 0"
dmsetup message theirs 0 "create_thin 5"
thin theirs origin 0
for block in 0 1 2 3 9 40 41 700; do put origin "$block" "origin $block"; done
dmsetup suspend origin
dmsetup message theirs 0 "create_snap 1 0"
dmsetup message theirs 0 "create_snap 2 0"
dmsetup resume origin
put origin 2 "origin again"
thin theirs copy 1
put copy 9 "copy 9"
blkdiscard -o $((3 * 65536)) -l 65536 /dev/mapper/copy
dmsetup message theirs 0 "reserve_metadata_snap"
put origin 100 "after the metadata snapshot"
put copy 101 "also after"
dmsetup status theirs
dmsetup remove origin
dmsetup remove copy
dmsetup remove theirs
sync
