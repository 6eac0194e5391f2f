"""Errors that a user can mend: one line each, no traceback, and an exit status that tells the two kinds apart."""

import re
import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Something outside the program is wrong (a file, a folder, a device): exit status 1.

    The message is one line: what was expected, what came, in which file or option, what to do.
    """

    exit_status = 1


class UsageError(UserError):
    """The options are wrong, or do not go together: exit status 2, as argparse has it."""

    exit_status = 2


# How torch says it, whose class for it is for GPUs alone. In a replica's error a traceback stands before it.
OUT_OF_MEMORY = re.compile(r"[^\n:]*(out of memory|not enough memory|can't allocate memory)[^\n]*", re.IGNORECASE)


def refused_by_machine(error: OSError | MemoryError | RuntimeError) -> UserError | None:
    """What to do about an error that can come from anywhere: of a disk, memory, open files; None for a bug."""
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return UserError(f"the system refused: {error.strerror or error}{where}")
    found = OUT_OF_MEMORY.search(str(error))
    if found or isinstance(error, MemoryError):
        reason = found[0].strip() if found else str(error) or "out of memory"
        return UserError(f"{reason}; give less to --b or --workers, or a larger machine")
    return None


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command line program: errors a user can mend become one line on stderr, and the process exits."""
    program = Path(sys.argv[0]).name
    try:
        try:
            status = main()
        except (OSError, MemoryError, RuntimeError) as error:
            if (refused := refused_by_machine(error)) is None:
                raise
            raise refused from error
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print(f"{program}: stopped by the keyboard", file=sys.stderr)
        sys.exit(130)
    sys.exit(status or 0)
