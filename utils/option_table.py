"""The options of ``main.py`` as ``docs/options.md`` shows them.

python -m utils.option_table > docs/options.md
"""

from collections.abc import Iterator
from pathlib import Path

from utils.declared import Declared
from utils.options import DECLARED, DEFAULTS

TITLE = """# Options of main.py

Made from the declarations in `utils/options.py` by `python -m utils.option_table`; `python main.py --help` says the
same. `-` may be typed for `_`. "Fixed": must be the same when a run is resumed.
"""
DOCUMENT = Path(__file__).parents[1] / "docs" / "options.md"


def document() -> str:
    """The whole page."""
    lines, group = [TITLE], ""
    for name, declared in DECLARED.items():
        if declared.group != group:
            group = declared.group
            lines.append(f"\n## {group[0].upper()}{group[1:]}\n")
            lines.append("| option | default | used by | fixed | meaning |\n|---|---|---|---|---|")
        lines.append("| " + " | ".join(_cells(name, declared)) + " |")
    return "\n".join(lines) + "\n"


def _cells(name: str, declared: Declared) -> Iterator[str]:
    yield ", ".join(f"`{flag}`" for flag in (f"--{name}", *declared.aliases))
    default = DEFAULTS.get(name)
    yield "required" if name not in DEFAULTS else "" if default is None else _shown(default)
    yield _users(declared)
    yield "" if declared.may_change else "yes"
    yield declared.help.replace("|", "\\|")


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    words = default if isinstance(default, tuple) else (default,)
    return "`" + " ".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words) + "`"


def _users(declared: Declared) -> str:
    """Phases, data sets and dimension; nothing where all use it."""
    uses = [", ".join(declared.phases), ", ".join(declared.datasets), f"{declared.dim}D" if declared.dim else ""]
    return "; ".join(use for use in uses if use)


if __name__ == "__main__":
    print(document(), end="")
