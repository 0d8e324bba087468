# What a synced write of 4 KiB costs at the devices: dm-thin on vda (metadata) and vdb (data), a pool of Vellum on vdc (metadata) and vdd
# (data), and one of files on ext4 on vde. Lines of /out/cost: what, who, then for one write: flushes, writes, bytes written, bytes read.
source nbd.sh
source thin.sh
vellum=$(cat binary)
writes=256
mount -t tmpfs tmpfs /mnt

cat >write.py <<'PYTHON'
import mmap, os, sys
path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
device = os.open(path, os.O_WRONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 4096)
for block in range(first, first + count):
    buffer[:8] = block.to_bytes(8, "little")
    os.pwrite(device, buffer, block * 65536 + 8192)
    os.fdatasync(device)
PYTHON

# counters DEVICE...: flushes, writes, bytes written, bytes read of all.
counters() {
    for device in "$@"; do cat "/sys/block/$device/stat"; done |
        awk '{ flushes += $16; writes += $5; written += $7 * 512; read += $3 * 512 } END { print flushes, writes, written, read }'
}

# cost WHAT WHO DEVICE DISKS FIRST_BLOCK: also what follows by itself within two seconds and a half.
cost() {
    local before after
    sleep 2.5
    # shellcheck disable=SC2086 # one word a disk
    before=$(counters $4)
    python3 write.py "$3" "$5" $writes
    sleep 2.5
    # shellcheck disable=SC2086
    after=$(counters $4)
    echo "$before $after" | awk -v what="$1" -v who="$2" -v n=$writes \
        '{ printf "%s %s %.2f %.2f %.0f %.0f\n", what, who, ($5 - $1) / n, ($6 - $2) / n, ($7 - $3) / n, ($8 - $4) / n }' >>/out/cost
}

# all WHO DEVICE DISKS SNAPSHOT...: a device with its first 16 MiB written, 256 blocks, of which SNAPSHOT makes a snapshot.
all() {
    local who=$1 device=$2 disks=$3
    shift 3
    random_bytes first $((16 << 20)) | dd of="$device" bs=64k iflag=fullblock oflag=direct conv=fdatasync status=none
    cost overwrite "$who" "$device" "$disks" 0
    cost new "$who" "$device" "$disks" 1000
    "$@"
    cost shared "$who" "$device" "$disks" 0
}

dm_snapshot() {
    dmsetup suspend device
    dmsetup message pool 0 "create_snap 1 0"
    dmsetup resume device
}

thin_pool pool /dev/vda /dev/vdb 128
new_thin device pool 0 $((512 << 11))
all dm-thin /dev/mapper/device "vda vdb" dm_snapshot
remove device pool

our_snapshot() {
    "$vellum" --pool "$pool" snapshot create device@one
}

# ours WHO DISKS: the pool in the directory `pool`.
ours() {
    "$vellum" --pool "$pool" volume create device --size 512M
    "$vellum" --pool "$pool" serve >/dev/null &
    wait_for "the server's socket" test -S "$pool/nbd.sock"
    attach /dev/nbd0 "$pool/nbd.sock" device 1
    all "$1" /dev/nbd0 "$2" our_snapshot
    detach /dev/nbd0
    kill %%
    wait
}

pool=/mnt/devices
"$vellum" --pool "$pool" pool create --size 960M --data /dev/vdd --metadata /dev/vdc
ours vellum "vdc vdd"
mkfs.ext4 -q /dev/vde
mkdir /mnt/ext4
mount /dev/vde /mnt/ext4
pool=/mnt/ext4/pool
"$vellum" --pool "$pool" pool create --size 960M
ours vellum-on-ext4 vde
umount /mnt/ext4
cat /out/cost
