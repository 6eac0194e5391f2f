"""``dataset.json`` of nnU-Net, versions 1 and 2: channels, labels and regions."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from data.datasets.cases import Region
from data.readers.masks import MOST_LABELS
from utils.errors import UserError

BACKGROUND = (0,)
# A voxel that nobody labelled, which training would have to leave out.
IGNORE = "ignore"


class Description(NamedTuple):
    """What ``dataset.json`` says of a data set."""

    channels: tuple[str, ...]
    """Their names, in the order of the network."""
    regions: tuple[Region, ...]
    exclusive: bool
    """Whether regions do not overlap."""
    ending: str
    """Of the files of images and masks, in lower case."""
    cases: int | None
    """With a mask; None where it does not say."""


def read_description(path: Path) -> Description:
    """Read ``dataset.json``.

    Source: nnU-Net's documentation of its dataset format and of region-based training.

    Raises:
        UserError: it cannot be read, has no channels or labels, labels that are no whole numbers from 1 to 255 or that
            mean several things, regions without ``regions_class_order``, or the label ``ignore``.
    """
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected nnU-Net's description of a data set in JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected names and values in {{}}, got {_shown(content)}")
    regions, exclusive = _regions(path, content)
    cases = content.get("numTraining")
    return Description(
        _channels(path, content), regions, exclusive, str(content.get("file_ending", ".nii.gz")).lower(),
        cases if isinstance(cases, int) else None,
    )  # fmt: skip


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]


def _channels(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    found = content.get("channel_names", content.get("modality"))
    names = {str(number): found.get(str(number)) for number in range(len(found))} if isinstance(found, dict) else {}
    if not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f'{path}: expected channel_names such as {{"0": "CT"}}, numbered from 0, got {_shown(found)}')
    return tuple(map(str, names.values()))


def _regions(path: Path, content: dict[str, Any]) -> tuple[tuple[Region, ...], bool]:
    """Return the regions, and whether they are exclusive."""
    labels = {name: values for name, values in _labels(path, content).items() if values != BACKGROUND}
    outside = {name: values for name, values in labels.items() if not all(0 < v < MOST_LABELS for v in values)}
    if outside or not labels:
        raise UserError(f"{path}: expected labels from 1 to {MOST_LABELS - 1}, got {_shown(outside or 'none')}")
    if IGNORE in labels:
        raise UserError(f"{path}: expected every voxel labelled, some are {IGNORE!r} ({labels[IGNORE][0]}); label them")
    if any(len(values) > 1 for values in labels.values()):
        order = content.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(labels) or not all(map(_is_label, order)):
            raise UserError(
                f"{path}: expected regions_class_order with the value of each of {len(labels)} regions in written "
                f"masks, got {_shown(order)}"
            )
        pairs = zip(labels.items(), order, strict=True)
        return tuple(Region(name, values, value) for (name, values), value in pairs), False
    twice = [value for value, count in Counter(values[0] for values in labels.values()).items() if count > 1]
    if twice:
        raise UserError(f"{path}: expected one name of each label, {twice[0]} has several")
    return tuple(Region(name, values, values[0]) for name, values in labels.items()), True


def _labels(path: Path, content: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the values of each name: version 1 has names by values, version 2 values by names."""
    found = content.get("labels")
    pairs = list(found.items()) if isinstance(found, dict) else []
    if pairs and all(key.isdigit() and isinstance(value, str) for key, value in pairs):
        pairs = [(value, int(key)) for key, value in pairs]
    labels = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in pairs}
    values = [value for found in labels.values() for value in found]
    if not values or len(labels) < len(pairs) or not all(map(_is_whole, values)) or () in labels.values():
        expected = '{"background": 0, "liver": 1} or {"0": "background", "1": "liver"}'
        raise UserError(f"{path}: expected labels such as {expected}, each once, got {_shown(content.get('labels'))}")
    return labels


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_label(value: Any) -> bool:
    return _is_whole(value) and 0 < value < MOST_LABELS
