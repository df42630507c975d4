"""The golden record: what makes each row, how far a machine may differ from it, and where it is stored.

One producer, two users: ``record.py`` stores what the rows make, ``test_golden.py`` compares.
"""

from __future__ import annotations

from golden import files, ops, pictures, row, store, training
from golden.files import FILES, FileRow
from golden.row import ROWS, Row

__all__ = ["FILES", "ROWS", "FileRow", "Row", "files", "ops", "pictures", "row", "store", "training"]
