"""Faults to be planted in weft's source, one at a time, and the tests that should find them."""

from mutation.cpp import FAULTS as CPP
from mutation.cuda import FAULTS as CUDA
from mutation.fault import KINDS, ROOT, Fault
from mutation.python import FAULTS as PYTHON
from mutation.triton import FAULTS as TRITON

# by language
FAULTS = {"C++": CPP, "CUDA": CUDA, "Triton": TRITON, "Python": PYTHON}

__all__ = ["FAULTS", "KINDS", "ROOT", "Fault"]
