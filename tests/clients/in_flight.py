# Four handles with 64 requests in flight each, answers in any order; what one wrote, another reads.
import random
import sys

import nbd

HANDLES = 4
IN_FLIGHT = 64
REQUESTS = 1500
SLOT = 16384
SLOTS = 4096  # of 16 KiB: 64 MiB

handles = []
for _ in range(HANDLES):
    handle = nbd.NBD()
    handle.connect_uri(sys.argv[1])
    assert handle.can_multi_conn()
    handles.append(handle)

choice = random.Random(42)
# Every slot belongs to one handle while it writes, and no slot has two requests in flight.
content = {}


def pattern(number, length):
    return number.to_bytes(4, "big") * (length // 4)


def settle(in_flight, at_most):
    """Takes answers until at most so many requests are in flight."""
    while any(len(requests) > at_most for requests in in_flight):
        for handle, requests in zip(handles, in_flight):
            if len(requests) > at_most:
                handle.poll(1000)
                for cookie in [cookie for cookie in requests if handle.aio_command_completed(cookie)]:
                    check, slot = requests.pop(cookie)
                    check()
                    busy.discard(slot)


def nothing():
    pass


busy = set()
in_flight = [{} for _ in handles]
most = 0
for number in range(REQUESTS * HANDLES):
    index = number % HANDLES
    handle = handles[index]
    settle(in_flight, IN_FLIGHT - 1)
    slot = choice.randrange(SLOTS // HANDLES) * HANDLES + choice.randrange(HANDLES)
    while slot in busy:
        slot = choice.randrange(SLOTS)
    busy.add(slot)
    offset = slot * SLOT
    kind = choice.randrange(8)
    if kind < 4:
        length = choice.choice([512, 4096, 8192, SLOT])
        before = content.get(slot, bytes(SLOT))
        data = pattern(number, length)
        content[slot] = data + before[length:]
        cookie = handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset)
        check = nothing
    elif kind < 7:
        buffer = nbd.Buffer(SLOT)
        expected = content.get(slot, bytes(SLOT))
        cookie = handle.aio_pread(buffer, offset)

        def check(buffer=buffer, expected=expected, slot=slot):
            assert buffer.to_bytearray() == expected, f"slot {slot} is wrong"

    else:
        content[slot] = bytes(SLOT)
        cookie = handle.aio_zero(SLOT, offset)
        check = nothing
    in_flight[index][cookie] = (check, slot)
    most = max(most, min(len(requests) for requests in in_flight))
settle(in_flight, 0)
assert most >= IN_FLIGHT - 1, most

handles[0].flush()
for slot in sorted(content):
    assert handles[1 + slot % 3].pread(SLOT, slot * SLOT) == content[slot], f"slot {slot} is wrong"
for handle in handles:
    handle.shutdown()
