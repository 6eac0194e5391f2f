"""The registry of 2D data sets."""

from data.catalog.xrays import XRAYS
from utils import options


def test_options_and_registry_name_the_same_data_sets():
    assert tuple(XRAYS) == options.XRAYS


def test_classes_are_names_of_their_own():
    for dataset in XRAYS.values():
        assert len(set(dataset.classes)) == len(dataset.classes) > 0
