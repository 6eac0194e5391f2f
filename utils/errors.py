"""Errors that a user can correct: one line without a traceback, and a different exit status for each of two kinds."""

import re
import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Something outside the program is wrong (a file, a folder, a device): exit status 1.

    The message is one line: what was expected, what was found, in which file or option, what to do.
    """

    exit_status = 1


class UsageError(UserError):
    """Options are wrong or contradict each other: exit status 2, as in argparse."""

    exit_status = 2


# torch has a class for this error on GPUs only, so that messages are searched; a replica's begins with a traceback.
OUT_OF_MEMORY = re.compile(r"[^\n:]*(out of memory|not enough memory|can't allocate memory)[^\n]*", re.IGNORECASE)


def refused_by_machine(error: OSError | MemoryError | RuntimeError) -> UserError | None:
    """Convert an error of the disk, memory or open files to a UserError that says what to do; None for a bug."""
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return UserError(f"the system refused: {error.strerror or error}{where}")
    found = OUT_OF_MEMORY.search(str(error))
    if found or isinstance(error, MemoryError):
        reason = found[0].strip() if found else str(error) or "out of memory"
        return UserError(f"{reason}; give less to --b or --workers, or a larger machine")
    return None


def run_command(main: Callable[[], int | None], program: str | None = None) -> None:
    """Run a command line program and exit; errors that a user can correct are printed as one line on stderr.

    Args:
        main: the program; its result is the exit status.
        program: how it was called, the beginning of that line; None: the name of its file.
    """
    program = program or Path(sys.argv[0]).name
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
