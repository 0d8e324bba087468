# Holes in reads, and both contexts of block status, on a volume with a snapshot of the same content.
import sys

import nbd

MIB = 1 << 20
HOLE_AND_ZERO = 3
SHARED = 1


def connect(uri):
    handle = nbd.NBD()
    handle.add_meta_context("base:allocation")
    handle.add_meta_context("x-vellum:shared")
    handle.connect_uri(uri)
    return handle


def status(handle, count, offset, flags=0):
    found = {}
    handle.block_status(
        count, offset, lambda context, at, entries, error: found.update({context: (at, entries)}) or 0, flags
    )
    assert set(found) == {"base:allocation", "x-vellum:shared"}, found
    assert all(at == offset for at, _ in found.values()), found
    return {context: list(zip(entries[::2], entries[1::2])) for context, (_, entries) in found.items()}


def walk(handle, context, start, end):
    """Extents from start to end, neighbours of one state joined."""
    extents = []
    at = start
    while at < end:
        for length, state in status(handle, end - at, at)[context]:
            assert length > 0
            length = min(length, end - at)
            if extents and extents[-1][1] == state:
                extents[-1][0] += length
            else:
                extents.append([length, state])
            at += length
    return [tuple(extent) for extent in extents]


def chunks(handle, count, offset, flags=0):
    found = []
    data = handle.pread_structured(
        count, offset, lambda part, at, state, error: found.append((at, len(part), state)) or 0, flags
    )
    found.sort()
    assert sum(length for _, length, _ in found) == count
    assert all(one[0] + one[1] == other[0] for one, other in zip(found, found[1:])), found
    return data, found


disk = connect(sys.argv[1])
snapshot = connect(sys.argv[2])
written = [(MIB, HOLE_AND_ZERO), (MIB, 0), (2 * MIB, HOLE_AND_ZERO), (4096, 0), (4 * MIB - 4096, HOLE_AND_ZERO)]
shared = [(MIB, 0), (MIB, SHARED), (2 * MIB, 0), (4096, SHARED), (4 * MIB - 4096, 0)]
for handle in (disk, snapshot):
    assert walk(handle, "base:allocation", 0, 8 * MIB) == written
    assert walk(handle, "x-vellum:shared", 0, 8 * MIB) == shared

# Exactly one extent, not past the range; else the last one may pass it.
for offset, count, state in ((0, 512, 3), (MIB + 512, 512, 0), (MIB - 512, MIB, 3)):
    entries = status(disk, count, offset, nbd.CMD_FLAG_REQ_ONE)["base:allocation"]
    assert len(entries) == 1 and entries[0][1] == state and 0 < entries[0][0] <= count, entries

# A read says what is a hole: all of it, none of it, and pieces; with DF in one piece.
data, found = chunks(disk, MIB, 0)
assert data == bytes(MIB) and all(state == nbd.READ_HOLE for _, _, state in found), found
data, found = chunks(disk, 3 * MIB, MIB // 2)
assert data == bytes(MIB // 2) + b"\x11" * MIB + bytes(3 * MIB // 2)
assert [state for _, _, state in found][0] == nbd.READ_HOLE and found[-1][2] == nbd.READ_HOLE, found
assert sum(length for _, length, state in found if state == nbd.READ_DATA) == MIB, found
data, found = chunks(disk, 3 * MIB, MIB // 2, nbd.CMD_FLAG_DF)
assert len(found) == 1 and data == bytes(MIB // 2) + b"\x11" * MIB + bytes(3 * MIB // 2)

# What is given back is a hole of the volume, and still there in the snapshot.
disk.trim(MIB // 2, MIB)
disk.pwrite(b"\x33" * 4096, MIB * 3 // 2)
disk.zero(65536, 6 * MIB, nbd.CMD_FLAG_NO_HOLE)
assert walk(disk, "base:allocation", MIB, 2 * MIB) == [(MIB // 2, HOLE_AND_ZERO), (MIB // 2, 0)]
found = walk(disk, "x-vellum:shared", MIB, 2 * MIB)
assert found == [(MIB // 2 + 4096, 0), (MIB // 2 - 4096, SHARED)], found
found = walk(disk, "base:allocation", 6 * MIB, 7 * MIB)
assert found[0][0] == 65536 and not found[0][1] & 1 and found[1:] == [(MIB - 65536, HOLE_AND_ZERO)], found
assert walk(snapshot, "base:allocation", 0, 8 * MIB) == written
assert snapshot.pread(MIB, MIB) == b"\x11" * MIB
disk.shutdown()
snapshot.shutdown()
