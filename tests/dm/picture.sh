# Pictures of snapshots of a served pool in the kernel, while a client goes on writing: bash picture.sh BINARY.
source pool.sh

vellum=$1
pool=/mnt/pool/p
tmeta=/mnt/pool/tmeta
export DM_DISABLE_UDEV=1
dmsetup() { command dmsetup --noudevsync "$@"; }

# put_random FIRST SECTORS: sectors of 4 KiB of the volume.
put_random() {
    dd if=/dev/urandom of=/dev/nbd0 bs=4k seek="$1" count="$2" iflag=fullblock oflag=direct conv=notrunc status=none
}

# go_on: a client that never stops, over and over.
go_on() {
    local round=0
    while :; do
        put_random $((round * 37 % 500)) 1
        put_random $((round * 101 % 490)) 20
        blkdiscard -o $((round * 91 % 500 * 4096)) -l 8192 /dev/nbd0
        round=$((round + 1))
        echo "$round" >/tmp/rounds
    done
}

# writes_went_on SINCE: a good part of the volume was written since. Programs start slowly here.
writes_went_on() {
    [ "$(cat /tmp/rounds)" -gt $(($1 + 8)) ]
}

# sum_of_snapshot NAME: of what the pool says that it holds.
sum_of_snapshot() {
    attach /dev/nbd1 "$socket" "$1" 1 >/dev/null
    head -c "$size" /dev/nbd1 | sha256sum
    detach /dev/nbd1 >/dev/null
}

# sum_of_thin NAME: of what the kernel reads in the picture.
sum_of_thin() {
    drop_caches
    head -c "$size" "/dev/mapper/$1" | sha256sum
}

# pool_table METADATA [FEATURE]
pool_table() {
    echo "0 $((data_blocks * 128)) thin-pool $1 $data 128 0 ${2:+1 $2}"
}

# must_be_refused METADATA [FEATURE]
must_be_refused() {
    dmesg -C
    if dmsetup create refused --table "$(pool_table "$@")" 2>/dev/null; then die "the kernel took $*"; fi
    dmesg | grep "could not access metadata RDWR due to unsupported optional features" | tail -n 1
}

# sum_of_data: of the whole data file.
sum_of_data() {
    drop_caches
    sha256sum <"$pool/data"
}

number() { grep -o "\"$1\": *[0-9]*" /tmp/exported | head -n 1 | grep -o '[0-9]*$'; }

place_pool
vellum pool create --size 128M
serve
vellum pool set detect-zeros=on
# The last block of the volume is cut off by its end.
size=$((2 * 1024 * 1024 + 12288))
vellum volume create disk --size "$size"
attach /dev/nbd0 "$socket" disk 4
put_random 0 515
dd if=/dev/zero of=/dev/nbd0 bs=4k seek=100 count=40 oflag=direct conv=notrunc status=none
vellum snapshot create disk@monday
put_random 33 1
put_random 514 1
blkdiscard -o $((300 * 4096)) -l 4096 /dev/nbd0
vellum snapshot create disk@tuesday
monday=$(sum_of_snapshot disk@monday)
tuesday=$(sum_of_snapshot disk@tuesday)
[ "$monday" != "$tuesday" ]
go_on &
writer=$!
wait_for "some writes" writes_went_on 0
vellum --json dm export --metadata "$tmeta" --snapshot disk@monday --snapshot disk@tuesday | tee /tmp/exported
vellum dm check "$tmeta"
data_blocks=$(number data_blocks)
say "exported while a client writes"

data=$(losetup --find --show --read-only "$pool/data")
writable=$(losetup --find --show "$tmeta")
must_be_refused "$writable"
must_be_refused "$writable" read_only
# What LVM does before it activates a pool does not help.
cp "$tmeta" /mnt/pool/cleared
thin_check --clear-needs-check-flag /mnt/pool/cleared >/dev/null 2>&1
cleared=$(losetup --find --show /mnt/pool/cleared)
must_be_refused "$cleared"
losetup --detach "$writable" "$cleared"
say "refused where it could be written"

metadata=$(losetup --find --show --read-only "$tmeta")
before=$(sha256sum "$tmeta")
# The device of a pool itself cannot be read-only.
dmsetup create picture --table "$(pool_table "$metadata" read_only)"
dmsetup mknodes picture
dmsetup status picture
dmsetup status picture | grep -q " ro "
for device in 2 3; do
    dmsetup create --readonly "thin$device" --table "0 $((size / 512)) thin /dev/mapper/picture $device"
    dmsetup mknodes "thin$device"
done
[ "$(sum_of_thin thin2)" = "$monday" ] || die "disk@monday differs"
[ "$(sum_of_thin thin3)" = "$tuesday" ] || die "disk@tuesday differs"
say "both snapshots are what they were"

since=$(cat /tmp/rounds)
wait_for "more writes" writes_went_on "$since"
vellum snapshot delete disk@tuesday
vellum volume collapse disk
vellum pool trim
if vellum snapshot delete disk@monday.picture-1 2>/dev/null; then die "what is pinned was deleted"; fi
if vellum dm export --metadata "$tmeta" --snapshot disk@monday --force 2>/dev/null; then die "took metadata in use"; fi
since=$(cat /tmp/rounds)
wait_for "more writes" writes_went_on "$since"
[ "$(sum_of_thin thin2)" = "$monday" ] || die "disk@monday differs later"
[ "$(sum_of_thin thin3)" = "$tuesday" ] || die "disk@tuesday differs later"
say "and still are, while the client writes and the pool collapses and trims"

# A thin device that may be written does not help: the pool is read-only.
dmsetup remove thin2
dmsetup create thin2 --table "0 $((size / 512)) thin /dev/mapper/picture 2"
dmsetup mknodes thin2
if dd if=/dev/zero of=/dev/mapper/thin2 bs=4k count=1 oflag=direct status=none 2>/dev/null; then die "wrote"; fi
if dmsetup message picture 0 "create_snap 9 2" 2>/dev/null; then die "made a snapshot"; fi
[ "$(sum_of_thin thin2)" = "$monday" ] || die "disk@monday differs after writing"
dmsetup remove thin2
dmsetup remove thin3
dmsetup remove picture

# Without the feature read_only: the second lock, needs_check, keeps the pool from being written.
dmsetup create picture --table "$(pool_table "$metadata")"
dmsetup mknodes picture
dmsetup status picture | grep " ro " | grep -q needs_check
dmsetup create thin2 --table "0 $((size / 512)) thin /dev/mapper/picture 2"
dmsetup mknodes thin2
if dd if=/dev/zero of=/dev/mapper/thin2 bs=4k count=1 oflag=direct status=none 2>/dev/null; then die "wrote"; fi
[ "$(sum_of_thin thin2)" = "$monday" ] || die "disk@monday differs without read_only"
dmsetup remove thin2
dmsetup remove picture
[ "$(sha256sum "$tmeta")" = "$before" ] || die "the kernel wrote to the metadata"
losetup --detach "$metadata"
say "read-only without the feature, too"

# With that lock taken away as well, only that the data is read-only keeps the kernel from writing there.
cleared=$(losetup --find --show --read-only /mnt/pool/cleared)
before=$(sha256sum /mnt/pool/cleared)
# The pool stands still meanwhile, so that nobody else changes the data.
kill -STOP "$server"
sleep 1
data_before=$(sum_of_data)
dmsetup create picture --table "$(pool_table "$cleared")"
dmsetup mknodes picture
dmsetup status picture | grep " rw "
dmsetup create thin2 --table "0 $((size / 512)) thin /dev/mapper/picture 2"
dmsetup mknodes thin2
if timeout 20 dd if=/dev/zero of=/dev/mapper/thin2 bs=4k count=1 oflag=direct status=none; then die "wrote"; fi
dmsetup status picture
dmsetup remove thin2
dmsetup remove picture
[ "$(sum_of_data)" = "$data_before" ] || die "the kernel wrote to the data"
kill -CONT "$server"
say "without both locks it is taken, and cannot write"
[ "$(sha256sum /mnt/pool/cleared)" = "$before" ] || die "the kernel wrote to the metadata"
losetup --detach "$cleared" "$data"

kill "$writer"
wait "$writer" || true
full=$(used_bytes)
vellum dm release disk@monday.picture-1 disk@tuesday.picture-1
must_use_fewer_than "$full" release
detach /dev/nbd0
stop TERM
vellum pool check
say "all worked"
