#!/bin/busybox sh
# First process of the virtual machine: makes the host's root the script's root, runs the script, tells its status.
#
# /job is the run's folder on the host, writable: what is written there is on the host at once, also when the kernel
# panics a moment later. Over the host's root, which is read-only, lies a tmpfs that takes all changes.
export PATH=/bin
/bin/busybox mkdir -p /bin /proc /dev /job /host /changes /inner
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r module; do insmod "$module" || exit 1; done <<LIST
$(cat /modules/order)
LIST

plan9() {
    mount -t 9p -o "trans=virtio,version=9p2000.L,msize=524288,$3" "$1" "$2" || exit 1
}
plan9 job /job access=any
plan9 host /host ro,cache=loose,access=any
mount -t tmpfs -o mode=755,size=75% changes /changes
mkdir /changes/upper /changes/work
mount -t overlay -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work overlay /inner || exit 1

mount -t proc proc /inner/proc
mount -t sysfs sys /inner/sys
mount -t devtmpfs dev /inner/dev
mkdir -p /inner/dev/pts /inner/dev/shm /inner/lab /inner/out
mount -t devpts pts /inner/dev/pts
for folder in dev/shm run; do mount -t tmpfs -o mode=1777 tmpfs "/inner/$folder"; done
ln -s /proc/self/fd /inner/dev/fd
ln -s /proc/self/fd/0 /inner/dev/stdin
ln -s /proc/self/fd/1 /inner/dev/stdout
ln -s /proc/self/fd/2 /inner/dev/stderr
mount --bind /job/out /inner/out
cp -r /job/files/. /inner/lab
ip link set lo up

release=$(uname -r)
mkdir -p "/inner/lib/modules/$release"
mount --bind "/host$(cat /job/modules-folder)" "/inner/lib/modules/$release" || exit 1
# The kernel asks for modules here, outside the script's root.
printf '#!/bin/sh\nPATH=/usr/sbin:/sbin:/usr/bin:/bin exec /bin/chroot /inner modprobe "$@"\n' >/sbin-modprobe
chmod +x /sbin-modprobe
echo /sbin-modprobe >/proc/sys/kernel/modprobe

# A hanging script is killed from outside; shortly before, the console gets to know what hangs in the kernel.
(sleep "$(cat /job/warning)" && echo w >/proc/sysrq-trigger) &

mkfifo /output
cat /output >/job/output &
reader=$!
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 TERM=dumb \
    DM_DISABLE_UDEV=1 chroot /inner /bin/bash /lab/.run </dev/null >/output 2>&1
status=$?

# What the script left running holds its output open.
for process in /proc/[0-9]*; do
    process=${process#/proc/}
    [ "$process" = 1 ] || [ "$process" = "$reader" ] || kill -9 "$process"
done 2>/dev/null
wait "$reader"
echo "$status" >/job/status
echo b >/proc/sysrq-trigger
sleep 60
