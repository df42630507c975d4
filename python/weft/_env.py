"""The environment variables that weft reads at run time, all of them; docs/environment.md is the page for users."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Settings:
    """What the environment asks for. The variable of a field is ``WEFT_`` and its name in capitals.

    Attributes:
        backend: "auto", "cuda", "triton", "cpu" or "reference"; checked where it is used.
        instruction_set: "auto", or the strongest one that kernels of ``weft._native`` may use; checked where it loads.
        launch_table: Path of a JSON file with launch rows of the Triton kernels; checked where it is read.
    """

    backend: str = "auto"
    instruction_set: str = "auto"
    launch_table: str = ""


def variable(field_name: str) -> str:
    """Name of the environment variable behind a field of ``Settings``."""
    return f"WEFT_{field_name.upper()}"


def settings() -> Settings:
    """The settings in force now; read at each call, so that a test or a notebook may change them."""
    given = {field.name: os.environ.get(variable(field.name), "").strip() for field in fields(Settings)}
    return Settings(**{name: value for name, value in given.items() if value})


def in_force() -> dict[str, str]:
    """Every variable that begins with WEFT_, known or not, so that a misspelt one is seen in a report."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith("WEFT_")}


def triton_is_interpreted() -> bool:
    """Whether Triton's own TRITON_INTERPRET replaces its compiler; it is read when a kernel is first imported."""
    return os.environ.get("TRITON_INTERPRET", "").strip().lower() in ("1", "true", "yes", "on", "y")
