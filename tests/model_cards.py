"""Cards of runs: what they say, and their code, run as it is shown."""

import contextlib
import re
import shutil
from pathlib import Path

import torch

from engine.model_card import CARD, EXAMPLES


def read_card(output: Path) -> str:
    """The text of a run's card; fails where an entry of a table or a list, but for those to fill in, is empty."""
    text = (output / CARD).read_text("utf-8")
    facts, _, to_fill_in = text.partition("## Licence")
    assert "{" not in facts and not re.search(r"\|  \||: \n|None", facts), facts
    assert "- Licence of the weights:\n" in to_fill_in
    return text


def run_card(output: Path, image: Path, dim: int) -> dict:
    """Run the Python code of a card beside its weights and an image; returns its names."""
    (code,) = re.findall(r"^```python\n(.*?)^```", read_card(output), re.MULTILINE | re.DOTALL)
    shutil.copy(image, output / EXAMPLES[dim])
    names: dict = {}
    with contextlib.chdir(output), torch.no_grad():
        exec(compile(code, CARD, "exec"), names)
    return names
