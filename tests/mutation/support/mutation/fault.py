"""One planted fault."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]

KINDS = (
    "index",  # another element, row or column
    "mask",  # too much or too little is left out
    "stride",  # another step through memory
    "size",  # a buffer, a count or a tile of another size
    "sign",
    "off by one",
    "wrong branch",
    "dropped check",
    "wrong axis",
    "wrong value",  # a factor, a constant, a stale or foreign number
)


@dataclass(frozen=True)
class Fault:
    """In ``file``, ``old`` becomes ``new``.

    Attributes:
        file: From the root of the repository.
        old: Occurs there exactly once.
        kind: One of ``KINDS``.
        tests: Arguments of pytest that choose the tests which should find it, files first.
    """

    file: str
    old: str
    new: str
    kind: str
    tests: str

    @property
    def test_files(self) -> list[Path]:
        return [ROOT / word.partition("::")[0] for word in shlex.split(self.tests) if word.startswith("tests/")]

    @property
    def name(self) -> str:
        """What it is called in records: it stays as long as the fault itself does."""
        return hashlib.sha256("\0".join((self.file, self.old, self.new)).encode()).hexdigest()[:12]

    def planted(self, text: str) -> str:
        """``text`` of the file, with the fault.

        Raises:
            LookupError: ``old`` is not there, or not just once.
        """
        if text.count(self.old) != 1:
            raise LookupError(
                f"{self.file}: the text of a fault must occur once; {self.old!r} occurs {text.count(self.old)} times; "
                "adapt the fault in tests/mutation/support/mutation"
            )
        return text.replace(self.old, self.new)


def faults(file: str, tests: str, *rows: tuple[str, str, str]) -> list[Fault]:
    """Faults of one file that the same tests should find, each (kind, old, new)."""
    return [Fault(file, old, new, kind, tests) for kind, old, new in rows]
