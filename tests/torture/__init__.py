"""Damaged and hostile inputs by the thousand, killed commands, full disks: `python -m tests.torture --help`.

`core` runs the cases in processes of their own and counts; `mutate` changes bytes, archives and values; each other file
is a kind of input. A kind makes case number n of a seed, reads it through the library's front door and says how that
went: "refused" (in one sentence that names the file), "right" (the values of the unchanged file, or those that an
independent reading of the changed one finds), "wrong", or "crashed" (any other exception). `core` adds "crashed" for a
process that died and "over" for one that took too long or too much memory.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before anything imports NumPy: a process with threads cannot be forked safely
