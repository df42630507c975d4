"""Store what weft gives today, for every later commit to be compared with: ``make golden``.

Without arguments rows that are missing are stored, and rows that came out otherwise are listed and left. A row is
rewritten by name alone: ``make golden ARGS="--only 'ops/attention/*'"``; the change goes into a commit of its own that
says why. The first record is of commit 6ea41a1.

Numbers are made on a fixed path of the CPU: one thread, AVX2 in torch, MKL and oneDNN. weft's own kernels take the
strongest instruction set there is; they have no switch that a user could set.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

# read by the libraries when they are loaded
PINNED = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="store missing rows of the golden record, or rewrite some by name")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="rewrite these; may hold * and ?")
    parser.add_argument("--list", action="store_true", help="print the names of all rows")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in PINNED.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **PINNED})
    sys.path.insert(0, str(Path(__file__).parent / "support"))

    import torch
    from golden import FILES, ROWS

    torch.set_num_threads(1)
    names = [*FILES, *ROWS]  # rows of training begin from stored files
    if options.list:
        print("\n".join(names))
        return 0
    unknown = [pattern for pattern in options.only if not any(fnmatch(name, pattern) for name in names)]
    if unknown:
        parser.error(f"no row is called {', '.join(unknown)}; --list prints all")
    chosen = [name for name in names if not options.only or any(fnmatch(name, pattern) for pattern in options.only)]
    changed = [name for name in chosen if not _record(name, rewrite=bool(options.only))]
    if changed:
        print(f"{len(changed)} rows are not as stored, and were left; rewrite them by name, --only NAME")
    return bool(changed)


def _record(name: str, rewrite: bool) -> bool:
    """Store one row where it is missing or to be rewritten, and say so; whether the record then holds what it is."""
    from golden import FILES, ROWS, files, row, store

    is_new = name not in store.recorded()
    if name in FILES:
        # files of a run hold times and versions, so that only their content is compared
        if not is_new and not rewrite:
            lines = files.differences(
                FILES[name], FILES[name].described(store.RECORD / name), store.read_content(name)
            )
        else:
            with tempfile.TemporaryDirectory() as folder:
                FILES[name].write(Path(folder))
                content = FILES[name].described(Path(folder))
                lines = [] if is_new else files.differences(FILES[name], content, store.read_content(name))
                store.write_files(name, Path(folder), content)
    else:
        found = ROWS[name].make()
        lines = [] if is_new else row.differences(ROWS[name], found, store.read_row(name))
        if is_new or rewrite:
            store.write_row(name, found)
    written = is_new or rewrite
    print(f"{'new' if is_new else 'rewritten' if rewrite else 'changed' if lines else 'same'}\t{name}")
    for line in lines:
        print(f"\t{line}")
    return written or not lines


if __name__ == "__main__":
    raise SystemExit(main())
