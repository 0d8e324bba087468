# What a careful client never sends: every answer is the one that the protocol names, and the connection lives on.
import errno
import sys

import nbd

MIB = 1 << 20


def fails(code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except nbd.Error as error:
        assert error.errnum == code, f"{call.__name__}{arguments}: {error}, not {errno.errorcode[code]}"
    else:
        raise AssertionError(f"{call.__name__}{arguments} must fail with {errno.errorcode[code]}")


def connect(uri):
    handle = nbd.NBD()
    handle.set_strict_mode(0)
    handle.add_meta_context("base:allocation")
    handle.add_meta_context("x-vellum:shared")
    handle.connect_uri(uri)
    return handle


def ignore(*_):
    return 0


disk = connect(sys.argv[1])
size = disk.get_size()
assert size == 8 << 30

# Past the end, by one byte, by far, and by so much that the sum overflows.
for offset in (size - 511, size, size + MIB, (1 << 63) - 512):
    fails(errno.EINVAL, disk.pread, 512, offset)
    fails(errno.EINVAL, disk.trim, 512, offset)
    fails(errno.EINVAL, disk.cache, 512, offset)
    fails(errno.EINVAL, disk.block_status, 512, offset, ignore)
    fails(errno.ENOSPC, disk.pwrite, bytes(512), offset)
    fails(errno.ENOSPC, disk.zero, 512, offset)

# Nothing at all.
for offset in (0, 5, size):
    assert disk.pread(0, offset) == b""
    disk.pwrite(b"", offset)
    disk.trim(0, offset)
    disk.zero(0, offset)
    disk.cache(0, offset)
    fails(errno.EINVAL, disk.block_status, 0, offset, ignore)

# Odd places.
data = bytes(range(1, 252)) * 40
for offset in (1, 511, 4095, 65535, 3 * MIB - 77, size - len(data)):
    disk.pwrite(data, offset)
    assert disk.pread(len(data), offset) == data
    assert disk.pread(3, offset + 5000) == data[5000:5003]
    disk.zero(700, offset + 100)
    assert disk.pread(len(data), offset) == data[:100] + bytes(700) + data[800:]
assert disk.pread(1, 0) == b"\0"

# More than one request may carry.
fails(errno.EINVAL, disk.pread, 33 * MIB, 0)
fails(errno.EOVERFLOW, disk.pread, 33 * MIB, 0, flags=nbd.CMD_FLAG_DF)
fails(errno.EINVAL, disk.pwrite, bytes(33 * MIB), 0)
disk.pwrite(b"\xa5" * (32 * MIB), 64 * MIB + 1)
assert disk.pread(32 * MIB, 64 * MIB + 1) == b"\xa5" * (32 * MIB)
for command in (disk.zero, disk.trim):
    command((1 << 32) - 1, 3)
assert disk.pread(MIB, 64 * MIB) == bytes(MIB)
disk.pwrite(b"\x77" * MIB, 0)

# Flags that no command has, and flags of other commands. FUA may stand on all of them.
for flag in (nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_REQ_ONE, nbd.CMD_FLAG_FAST_ZERO, 1 << 6, 1 << 15):
    fails(errno.EINVAL, disk.pread, 512, 0, flags=flag)
    fails(errno.EINVAL, disk.pwrite, bytes(512), 0, flags=flag)
    fails(errno.EINVAL, disk.trim, 512, 0, flags=flag)
    fails(errno.EINVAL, disk.flush, flags=flag)
fails(errno.EINVAL, disk.pwrite, bytes(512), 0, flags=nbd.CMD_FLAG_DF)
fails(errno.EINVAL, disk.zero, 512, 0, flags=nbd.CMD_FLAG_DF)
assert disk.pread(512, 0, flags=nbd.CMD_FLAG_FUA) == b"\x77" * 512
disk.flush(flags=nbd.CMD_FLAG_FUA)
disk.cache(512, 0, flags=nbd.CMD_FLAG_FUA)
disk.trim(4096, 0, flags=nbd.CMD_FLAG_FUA)
disk.pwrite(b"\x66" * 512, 4096, flags=nbd.CMD_FLAG_FUA)
disk.zero(4096, 8192, flags=nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_FAST_ZERO)
disk.zero(4096, 12288, flags=nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
fails(errno.ENOTSUP, disk.zero, 4096, 16384, flags=nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
assert disk.pread(20480, 0) == bytes(4096) + b"\x66" * 512 + b"\x77" * 3584 + bytes(8192) + b"\x77" * 4096

# A snapshot is read-only, and still what it was.
snapshot = connect(sys.argv[2])
assert snapshot.is_read_only()
fails(errno.EPERM, snapshot.pwrite, bytes(512), 0)
fails(errno.EPERM, snapshot.zero, 512, 0)
fails(errno.EPERM, snapshot.trim, 512, 0)
fails(errno.EPERM, snapshot.pwrite, bytes(512), size)
snapshot.flush()
assert snapshot.pread(MIB, 0) == bytes(MIB)
snapshot.shutdown()

# Negotiation that changes its mind.
other = nbd.NBD()
other.set_opt_mode(True)
other.connect_uri(sys.argv[1].replace("/disk?", "/gone?"))
fails(errno.ENOENT, other.opt_info)
fails(errno.ENOENT, other.opt_go)
names = []
other.opt_list(lambda name, description: names.append(name))
assert names == ["disk", "disk@empty"], names
other.set_export_name("disk")
contexts = []
other.opt_list_meta_context(lambda name: contexts.append(name))
assert contexts == ["base:allocation", "x-vellum:shared"], contexts
other.opt_info()
assert other.get_size() == size
other.opt_go()
assert other.pread(512, 4096) == b"\x66" * 512
other.shutdown()
ends = nbd.NBD()
ends.set_opt_mode(True)
ends.connect_uri(sys.argv[1])
ends.opt_abort()

# A client without structured replies.
plain = nbd.NBD()
plain.set_request_structured_replies(False)
plain.set_strict_mode(0)
plain.connect_uri(sys.argv[1])
assert plain.pread(4608, 0) == bytes(4096) + b"\x66" * 512
fails(errno.EINVAL, plain.pread, 512, size)
fails(errno.EINVAL, plain.block_status, 512, 0, ignore)
fails(errno.EINVAL, plain.pread, 512, 0, flags=nbd.CMD_FLAG_DF)
assert plain.pread(512, 4096) == b"\x66" * 512
plain.shutdown()

assert disk.pread(512, 4096) == b"\x66" * 512
disk.shutdown()
