"""Errors that a user can mend: one line each, no traceback, and an exit status that tells the two kinds apart."""

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


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command line program: errors a user can mend become one line on stderr, and the process exits."""
    program = Path(sys.argv[0]).name
    try:
        status = main()
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print(f"{program}: stopped by the keyboard", file=sys.stderr)
        sys.exit(130)
    sys.exit(status or 0)
