# Makes what a machine boots from: kernel, modules, first file system. Prints its folder as the last line.
#
#   bash -c "$(cat prepare.sh)" prepare CACHE RECIPE INIT
#
# CACHE is the folder to keep it in, RECIPE changes when this script or INIT, the text of init.sh, does. The caller
# holds a lock. Exits with 3 when something is missing on this machine.
set -euo pipefail
cache=$1 recipe=$2 init=$3

missing() {
    echo "$*" >&2
    exit 3
}

for tool in apt-cache apt-get busybox cpio depmod dpkg modprobe qemu-system-x86_64 setpriv; do
    command -v "$tool" >/dev/null || missing "$tool is not installed"
done

# Unless apt's lists are newer, the kernel that was made last is the current one.
current=$(readlink -e "$cache/current" || true)
if [ "$(cat "$current/recipe" 2>/dev/null)" = "$recipe" ] && [ ! /var/lib/apt/lists -nt "$current/checked" ]; then
    echo "$current"
    exit 0
fi

described=$(apt-cache show --no-all-versions linux-image-amd64) || missing "apt does not know linux-image-amd64"
package=$(sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p' <<<"$described")
version=$(sed -n 's/^Version: //p' <<<"$described")
[ -n "$package" ] || missing "linux-image-amd64 depends on no kernel"
made="$cache/$package-${version//[^a-zA-Z0-9.+~-]/_}-$recipe"

if [ ! -e "$made/checked" ]; then
    rm -rf "$cache/new" && mkdir -p "$cache/new/root/bin" "$cache/new/root/modules" && cd "$cache/new"
    # The newest build of the package may lie in another archive than the one that the lists name first.
    apt-get -q download "$package" >download.log 2>&1 || missing "cannot fetch $package: $(tail -n 3 download.log)"
    dpkg -x "$package"_*.deb kernel
    rm "$package"_*.deb
    release=$(cd kernel/lib/modules && ls)
    mv "kernel/boot/vmlinuz-$release" vmlinuz
    mv "kernel/lib/modules/$release" modules
    rm -rf kernel modules/kernel/drivers/{gpu,infiniband,media,net/wireless,staging} modules/kernel/sound
    mkdir -p lib/modules && ln -s ../../modules "lib/modules/$release"
    depmod -b . "$release"
    # libcrc32c, which dm-thin-pool needs, is refused as long as nobody offers crc32c: so that is loaded first.
    modprobe -d . -S "$release" -a --show-depends crc32c_generic virtio_pci virtio_blk 9pnet_virtio 9p overlay |
        awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >needed
    while read -r module; do
        cp "$module" root/modules/
        echo "/modules/${module##*/}" >>root/modules/order
    done <needed
    cp "$(command -v busybox)" root/bin/busybox
    printf '%s' "$init" >root/init && chmod +x root/init
    (cd root && find . | cpio --quiet -o -H newc -R 0:0) >initrd
    rm -rf root needed lib
    echo "$recipe" >recipe
    touch checked
    cd "$cache"
    find . -mindepth 1 -maxdepth 1 -name 'linux-image-*' -exec rm -rf {} +
    mv new "$made"
fi
touch "$made/checked"
ln -sfn "${made##*/}" "$cache/current"
echo "$made"
