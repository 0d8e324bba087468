# The kernel's NBD client against nbdkit: what must work with any server, before Vellum's is tried with vellum.sh.
source nbd.sh

nbdkit -U /run/nbd.sock -P /run/nbd.pid memory 256M
wait_for "the server" test -S /run/nbd.sock
mkdir -p /mnt/volume

for connections in 1 4; do
    attach /dev/nbd0 /run/nbd.sock "" "$connections"
    [ "$(blockdev --getsize64 /dev/nbd0)" = $((256 << 20)) ] || die "wrong size"
    make_filesystem ext4 /dev/nbd0
    mount /dev/nbd0 /mnt/volume
    write_files /mnt/volume/files "$connections" 20
    sync -f /mnt/volume
    umount /mnt/volume
    check_filesystem ext4 /dev/nbd0
    detach /dev/nbd0

    attach /dev/nbd0 /run/nbd.sock "" "$connections"
    mount /dev/nbd0 /mnt/volume
    verify_files /mnt/volume/files
    rm -r /mnt/volume/files
    fstrim -v /mnt/volume
    umount /mnt/volume
    check_filesystem ext4 /dev/nbd0
    blkdiscard /dev/nbd0
    detach /dev/nbd0
    say "connections $connections: ok"
done
