"""The entry point of ``weft``: whatever ends a command ends it in one message, with an exit status.

0 done; 2 an error that the user can fix; 130 interrupted. Everything else is a fault of weft and shows its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from weft import __version__
from weft._errors import BackendUnavailableError
from weft.train.core import Diverged, Interrupted

# what a wrong option, a wrong file or a machine without something raises, in weft and in the libraries below it
_EXPECTED = (
    ValueError,
    TypeError,
    LookupError,
    OSError,
    ImportError,
    MemoryError,
    OverflowError,
    BackendUnavailableError,
    Diverged,
)
# torch has no type of its own for what a CPU cannot hold
_LACK_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "size calculation overflowed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out the command that ``arguments`` name, those of the process unless given."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given == ["--version"]:
            print(f"weft {__version__}")
            return
        # here, so that Ctrl-C is answered in one line while modules are imported, too
        from weft.commands.command_line import parse, run

        run(parse(given))
    except Interrupted as stop:
        _end(str(stop), 130)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except _EXPECTED as error:
        _end(f"error: {_message(error)}", 2)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LACK_OF_MEMORY):
            raise
        _end(f"error: not enough memory; ask for less: {_message(error)}", 2)


def _message(error: Exception) -> str:
    """What an error says, without the names that the line begins with already."""
    # of a KeyError the text is a repr
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if not isinstance(error, BackendUnavailableError):  # which has a line for each backend
        message = (message.strip().splitlines() or [""])[0]
    return message.removeprefix("weft: ") or type(error).__name__


def _end(message: str, status: int) -> NoReturn:
    print(f"weft: {message}", file=sys.stderr)
    raise SystemExit(status)
