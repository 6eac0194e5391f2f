"""The share of broken samples above which a run ends."""

from collections.abc import Mapping

from utils.errors import UserError


def require_few_broken(bad: Mapping[str, str], *, total: int, max_bad: float, what: str = "samples") -> None:
    """Require that no larger share of the samples is broken.

    Args:
        bad: the broken samples, by name with the reason.
        total: all samples.
        max_bad: the share that may be broken.
        what: what the samples are, for the error.

    Raises:
        UserError: more are broken; the message has the first reason.
    """
    if len(bad) > max_bad * total:
        raise UserError(
            f"--max_bad: {len(bad)} of {total} {what} are broken, more than the share of {max_bad} allowed; repair or "
            f"remove them, or give a larger --max_bad; the first: {next(iter(bad.values()))}"
        )
