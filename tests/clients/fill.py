# What contexts.py looks at.
import sys

import nbd

disk = nbd.NBD()
disk.connect_uri(sys.argv[1])
disk.pwrite(b"\x11" * (1 << 20), 1 << 20)
disk.pwrite(b"\x22" * 4096, 4 << 20)
disk.flush()
disk.shutdown()
