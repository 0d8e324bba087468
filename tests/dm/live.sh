# A pool in the kernel's dm-thin and back: bash live.sh BINARY FOLDER.
#
# FOLDER has the pool as `pool` and what its volumes hold as `content`. vda becomes a file system for files; vdb and vdc are data and
# the kernel's metadata of a pool on devices. Beside each volume stands an image, which gets the same writes.
source pool.sh

vellum=$1
given=$2
pool=/mnt/pool/tank
thin=/mnt/pool/tmeta
content=/mnt/pool/content

# says KEY [ARGUMENT...]: a number or word of `dm status`.
says() {
    local key=$1 found
    shift
    found=$(vellum dm status --json "$@" | grep -o "\"$key\": *[^,}]*" | head -n 1) || die "no $key in the status"
    found=${found#*:}
    echo "${found//[\" ]/}"
}

has() {
    [ "$(says "$1")" = "$2" ]
}

is() {
    has "$@" || die "$1 is $(says "$1") and not $2"
}

# fails CODE COMMAND...: with this exit code; what it said is in $said.
fails() {
    local code=$1 status=0
    shift
    said=$("$@" 2>&1) || status=$?
    [ "$status" = "$code" ] || die "$*: ended with $status and not $code: $said"
}

# look: what path tells from.
look() {
    table=$(vellum dm status)
}

# path NAME: of the device of a volume.
path() {
    awk -v name="$1" '$2 == name { for (i = 3; i <= NF; i++) if ($i ~ /^\//) { print $i; exit } }' <<<"$table"
}

# put IMAGE NAME BLOCK TEXT: 4 KiB into the device and its image.
put() {
    local device
    device=$(path "$2")
    { printf %s "$4"; head -c $((4096 - ${#4})) /dev/zero; } >/tmp/sector
    dd if=/tmp/sector of="$device" bs=4k seek=$(($3 * 16)) count=1 oflag=direct conv=notrunc status=none
    dd if=/tmp/sector of="$content/$1" bs=4k seek=$(($3 * 16)) count=1 conv=notrunc status=none
}

# forget IMAGE NAME BLOCK: discards a whole block.
forget() {
    blkdiscard -o $(($3 * 65536)) -l 65536 "$(path "$2")"
    dd if=/dev/zero of="$content/$1" bs=64k seek="$3" count=1 conv=notrunc status=none
}

# all_devices_equal: every volume and snapshot, as the kernel reads it.
all_devices_equal() {
    local image name device
    look
    while read -r image name; do
        device=$(path "$name")
        [ -b "$device" ] || die "'$name' has no device"
        [ "$(blockdev --getsize64 "$device")" = "$(stat -c %s "$content/$image")" ] || die "'$name' has another size"
        cmp "$device" "$content/$image" || die "'$name' differs in the kernel"
    done <"$content/list"
}

# all_volumes_equal: every volume and snapshot of the pool that came back.
all_volumes_equal() {
    local image name
    serve >/dev/null
    while read -r image name; do
        nbdcopy "nbd+unix:///$name?socket=$socket" - | cmp - "$content/$image" || die "'$name' differs"
    done <"$content/list"
    stop TERM
    vellum pool check | tail -n 1 | grep -q ^sound: || die "the pool is not sound"
}

# nothing_is_left: no mapped device, no loop device.
nothing_is_left() {
    [ "$(dmsetup ls)" = "No devices found" ] || die "mapped devices are left: $(dmsetup ls)"
    [ -z "$(losetup --list --noheadings)" ] || die "loop devices are left: $(losetup --list --noheadings)"
}

# sound METADATA: for everybody.
sound() {
    thin_check -q "$1" || die "thin_check is not content with $1"
    vellum dm check "$1" | tail -n 1 | grep -q ^sound: || die "$1 is not sound"
}

# look_between [ARGUMENT...]: everything down, checked, and up again.
look_between() {
    vellum dm deactivate --keep >/dev/null
    nothing_is_left
    is active false
    sound "$metadata"
    vellum dm activate "$@" >/dev/null
}

no_programs() {
    ! pgrep -x 'dmsetup|losetup' >/dev/null
}

# killed_at SECONDS COMMAND...: what it had started comes to its end. How many were not done by then is in $hits.
hits=0
killed_at() {
    local seconds=$1 status=0
    shift
    timeout --foreground -s KILL "$seconds" "$vellum" --pool "$pool" "$@" >/dev/null 2>&1 || status=$?
    [ "$status" != 137 ] || hits=$((hits + 1))
    wait_for "the end of its programs" no_programs
}

# kills_hit WHAT: at least one since the last time.
kills_hit() {
    say "$hits kills hit"
    [ "$hits" -gt 0 ] || die "no kill has hit $1"
    hits=0
}

place_pool
cp -r --sparse=always "$given/pool" "$pool"
cp -r --sparse=always "$given/content" "$content"

# Nothing is in it before the pool runs full, and reading it takes its time.
sed -i '/^large /d' "$content/list"

say "== files"
metadata=$thin
fails 9 vellum dm activate
[[ $said == *"vellum dm export"* ]] || die "$said"
vellum dm export --metadata "$thin" >/dev/null
sound "$thin"
is active false

# What fails leaves nothing.
dmsetup create vellum-tank-empty --table "0 8 zero"
fails 4 vellum dm activate
[ "$(dmsetup ls | wc -l)" = 1 ] || die "an activation that failed left $(dmsetup ls)"
dmsetup remove vellum-tank-empty
nothing_is_left
# What an activation that was killed has left.
losetup --find "$pool/data"
fails 5 vellum dm activate
[[ $said == *"vellum dm deactivate --keep"* ]] || die "$said"
vellum dm deactivate --keep
nothing_is_left

vellum dm activate disk disk@monday >/dev/null
fails 4 vellum dm activate disk
fails 3 vellum dm activate nobody
vellum dm activate >/dev/null
fails 4 vellum dm activate
look
[[ $said == *"active already"*"vellum-tank-disk@monday"* ]] || die "$said"
is active true
is space_state ok
all_devices_equal
[ "$(path group/copy=1)" = "/dev/mapper/vellum-tank-group:copy=3D1" ] || die "the name is $(path group/copy=1)"
[ "$(blockdev --getro "$(path disk@monday)")" = 1 ] || die "a snapshot can be written"
for loop in $(losetup --list --noheadings --output NAME); do
    [ "$(losetup --list --noheadings --output AUTOCLEAR "$loop" | tr -d ' ')" = 1 ] || die "$loop would stay"
done

# Nobody else may have it.
fails 5 vellum serve
fails 5 vellum pool status
[[ $said == *"vellum dm deactivate"* ]] || die "$said"
fails 5 vellum dm import
fails 5 vellum dm export --metadata "$thin"

say "== sharing"
put disk disk 20 "origin"
put group_copy=1 group/copy=1 3 "copy"
put disk disk 50 "a partial block"
put disk disk 60 "a new block"
put disk disk 64 "the last block"
forget group_copy=1 group/copy=1 30
all_devices_equal
look_between
all_devices_equal

say "== snapshots"
cp "$content/disk" "$content/disk_kernel"
vellum dm snapshot disk@kernel --activate
look
echo "disk_kernel disk@kernel" >>"$content/list"
fails 4 vellum dm snapshot disk@kernel
fails 3 vellum dm snapshot nobody@kernel
put disk disk 1 "after the snapshot"
cp "$content/disk" "$content/second"
vellum dm clone disk second
echo "second second" >>"$content/list"
vellum dm activate second >/dev/null
look
put second second 2 "second alone"
forget disk disk 33
all_devices_equal
[ "$(dmsetup info --noheadings -c -o attr vellum-tank-disk | tr -d ' ')" = L--w ] || die "the origin is suspended"

say "== killed snapshots"
for seconds in 0.2 0.4 0.6; do
    killed_at "$seconds" dm snapshot disk@killed
    # Whatever changes something lets the origin go on.
    fails 4 vellum dm activate disk
    [ "$(dmsetup info --noheadings -c -o attr vellum-tank-disk | tr -d ' ')" = L--w ] || die "the origin is suspended"
done
kills_hit "a snapshot"
# Made by now, or before a kill.
vellum dm snapshot disk@killed || [ $? = 4 ]
fails 4 vellum dm snapshot disk@killed
cp "$content/disk" "$content/disk_killed"
echo "disk_killed disk@killed" >>"$content/list"

say "== metadata snapshot"
vellum dm metadata-snapshot reserve >/dev/null
is metadata_snapshot true
fails 4 vellum dm metadata-snapshot reserve
put disk disk 5 "after the metadata snapshot"
"$vellum" --pool /mnt/pool/other dm import --metadata-snapshot --metadata "$thin" --data "$pool/data" >/dev/null
"$vellum" --pool /mnt/pool/other pool check | tail -n 1 | grep -q ^sound:
vellum dm metadata-snapshot release >/dev/null
is metadata_snapshot false
fails 3 vellum dm metadata-snapshot release
(
    pool=/mnt/pool/other
    serve >/dev/null
    nbdcopy "nbd+unix:///thin-6?socket=$socket" /tmp/thin-6
    # Nobody told how large it is: up to the last block that is mapped.
    cmp -n "$(stat -c %s "$content/disk_kernel")" /tmp/thin-6 "$content/disk_kernel"
    stop TERM
)
look_between

say "== in use"
exec 9<"$(path disk)"
fails 11 vellum dm deactivate
[[ $said == *"/dev/mapper/vellum-tank-disk"* ]] || die "$said"
exec 9<&-
all_devices_equal

say "== a copy of the pool's files"
cp -r --sparse=always "$pool" /mnt/pool/copy
for command in activate deactivate status extend; do
    fails 5 "$vellum" --pool /mnt/pool/copy dm "$command"
    [[ $said == *"a copy of this pool is active"* ]] || die "$said"
done
rm -r /mnt/pool/copy
is active true

say "== killed"
vellum dm deactivate --keep >/dev/null
for seconds in 0.1 0.3 0.5 0.8 1.2; do
    killed_at "$seconds" dm activate disk disk@monday
    vellum dm deactivate --keep >/dev/null
    nothing_is_left
done
kills_hit "an activation"
for seconds in 0.2 0.6; do
    vellum dm activate disk >/dev/null
    killed_at "$seconds" dm deactivate --keep
    vellum dm deactivate --keep >/dev/null
    nothing_is_left
done
kills_hit "a deactivation"
sound "$metadata"

say "== out of space"
vellum dm activate --low-water 2M --prefix low --no-space error >/dev/null
event=$(says event)
look
large=$(path large)
[ "$large" = /dev/mapper/low-large ] || die "the prefix is not used: $large"
before=$(says free_bytes)
random_bytes large $((before + (4 << 20))) >/tmp/large
dd if=/tmp/large of="$content/large" bs=1M conv=notrunc status=none
echo "large large" >>"$content/list"
fails 1 dd if=/tmp/large of="$large" bs=64k oflag=direct conv=notrunc status=none
[[ $said == *"No space left"* ]] || die "$said"
[ "$(says event --after "$event" --timeout 60)" -gt "$event" ] || die "there was no event"
is space_state out-of-space
is shortage blocks
# A pool that comes back needs room for its log.
fails 6 vellum dm deactivate
[[ $said == *"vellum dm extend"* ]] || die "$said"
vellum dm deactivate --keep >/dev/null
vellum dm activate --low-water 2M --prefix low >/dev/null
event=$(says event)
is space_state low
dd if=/tmp/large of="$large" bs=64k oflag=direct conv=notrunc status=none &
writer=$!
[ "$(says event --after "$event" --timeout 60)" -gt "$event" ] || die "there was no second event"
wait_for "out of space" has space_state out-of-space
vellum dm status
[[ $(vellum dm status) == *"out-of-space: extend the pool"* ]] || die "no words for it"
fails 6 vellum dm snapshot disk@full
fails 9 vellum dm extend --size 1M
vellum dm extend --size 40M --metadata-size 12M >/dev/null
wait "$writer"
is space_state ok
is size_bytes $((40 << 20))
is metadata_bytes $((12 << 20))
[ "$(stat -c %s "$pool/data")" = $((40 << 20)) ] || die "the data file has another size"
all_devices_equal

say "== back"
# As after an interruption: some of it is down already.
dmsetup remove low-large
for seconds in 0.3 0.8 1.2 1.6; do killed_at "$seconds" dm deactivate; done
kills_hit "a deactivation that takes the pool back"
# Unless the last one was done before.
vellum dm deactivate || [ $? = 9 ]
nothing_is_left
[ ! -e "$pool/thin-devices.json" ] && [ ! -L "$pool/thin-metadata" ] || die "files are left"
all_volumes_equal
fails 9 vellum dm status

say "== devices"
pool=/mnt/pool/device
vellum pool create --size 16M --no-auto-extend --data /dev/vdb >/dev/null
vellum volume create disk --size 4M >/dev/null
random_bytes disk $((4 << 20)) >"$content/disk"
serve >/dev/null
nbdcopy "$content/disk" "nbd+unix:///disk?socket=$socket"
stop TERM
vellum snapshot create disk@one >/dev/null
cp "$content/disk" "$content/disk_one"
printf 'disk disk\ndisk_one disk@one\n' >"$content/list"
metadata=/dev/vdc
vellum dm export --metadata /dev/vdc >/dev/null
vellum dm activate --no-space error >/dev/null
look
[ -z "$(losetup --list --noheadings)" ] || die "devices need no loop devices"
is no_space error
fails 5 vellum dm import
put disk disk 7 "on a device"
all_devices_equal
look_between --read-only
is space_state read-only
fails 1 dd if=/dev/zero of="$(path disk)" bs=4k count=1 oflag=direct status=none
all_devices_equal
vellum dm deactivate --keep >/dev/null
vellum dm activate >/dev/null
# All of the device, which is larger than the pool was.
vellum dm extend >/dev/null
is size_bytes $((24 << 20))
vellum dm deactivate
nothing_is_left
all_volumes_equal

say "== deleted in the kernel"
vellum dm export --metadata /dev/vdc --force >/dev/null
vellum dm activate >/dev/null
second=$(vellum dm clone disk second --json | grep -o '"device": *[0-9]*' | grep -o '[0-9]*$')
look
disk=$(awk '$2 == "disk" { print $1 }' <<<"$table")
dmsetup remove vellum-device-disk
for number in "$second" "$disk"; do dmsetup message vellum-device-pool 0 "delete $number"; done
vellum dm deactivate --keep >/dev/null
fails 3 vellum dm activate second
fails 3 vellum dm activate disk
[[ $said == *"deleted 'disk'"* ]] || die "$said"
vellum dm deactivate
nothing_is_left
[ "$(vellum volume list --json | grep -o '"name"' | wc -l)" = 1 ] || die "there is $(vellum volume list)"
# A snapshot without its volume is one.
echo "disk_one disk-one" >"$content/list"
all_volumes_equal
say "done"
