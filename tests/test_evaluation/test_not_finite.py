"""Outputs that are not finite end a run with one line, in every task, on the validation and on the test split."""

import numpy as np
import pytest
import torch
from torch import nn

from downstream.finetune import RECIPES
from downstream.tasks import RunContext, run_lists
from engine.finetune import ForwardStep
from engine.precision import Precision
from evaluation.classification import loss_of, validation_numbers
from evaluation.predictions import Predictions
from evaluation.segmentation import CaseScore, require_scores
from losses.classification import known_cross_entropy
from tests.masked_images import make_masked_images
from utils.errors import UserError
from utils.options import parse_options
from utils.world import World

CPU = torch.device("cpu")


class Broken(nn.Module):
    """A network whose first call has an output that is not finite."""

    def __init__(self, network, value):
        super().__init__()
        self.network, self.value, self.calls = network, value, 0

    def forward(self, x):
        self.calls += 1
        out = self.network(x).clone()
        if self.calls == 1:
            out[-1].view(-1)[0] = self.value
        return out


def recipe_of(root, output, name, *more):
    arguments = [
        "--phase", "finetune", "--data", root, "--output", output, "--lists", output / "lists", "--n", name, "--d", 2,
        "--b", 2, "--ratio", 0, "--workers", 0, "--global_size", 64, "--lr", 1e-3, "--weight", "none", *more,
    ]  # fmt: skip
    options = parse_options(list(map(str, arguments)))
    return RECIPES[name](RunContext(options, World(), CPU, run_lists(options, World())))


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return make_masked_images(tmp_path_factory.mktemp("masked"))


@pytest.mark.parametrize(("name", "value"), [("chest", torch.nan), ("folder", torch.inf)])
def test_a_sample_without_finite_outputs_ends_the_run_in_one_line(nih, masked, tmp_path, name, value):
    recipe = recipe_of(nih if name == "chest" else masked, tmp_path, name, *["--save_masks"] * (name == "folder"))
    torch.manual_seed(0)
    network = recipe.build_model().eval()
    for evaluate, title in ((recipe.validate, "validation"), (recipe.test, "test")):
        module = ForwardStep(Broken(network, value), Precision.choose(CPU, amp=False), torch.contiguous_format)
        with pytest.raises(UserError) as caught:
            evaluate(module)
        message = str(caught.value)
        assert f"finite outputs for the {title} split, got others for 1 of " in message and "\n" not in message
    written = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "lists"}
    # Only the masks of cases with finite outputs were written.
    masks = {f"{recipe.splits.test.name(i)}.png" for i in range(1, len(recipe.splits.test))}
    assert written == (masks if name == "folder" else set())


def test_a_loss_of_no_label_is_none_and_not_0():
    values, labels = np.zeros((3, 2), np.float32), np.full((3, 2), np.nan, np.float32)
    predictions = Predictions([0, 1, 2], values, labels)
    assert loss_of(predictions, known_cross_entropy) is None
    with pytest.raises(UserError, match="expected labels in the validation split, 3 samples have none"):
        validation_numbers(predictions, ["a", "b"], ["p", "q", "r"], known_cross_entropy)
    labels[1, 0] = 1
    assert loss_of(predictions, known_cross_entropy) == pytest.approx(np.log(2))


def test_cases_are_named_and_none_at_all_is_an_error():
    good, bad = (CaseScore(i, loss, [0.5], [1.0], [3], [3]) for i, loss in ((0, 0.5), (4, float("nan"))))
    require_scores([good], split="test", name=str)
    with pytest.raises(UserError, match="for 1 of 2 samples, the first 4;"):
        require_scores([good, bad], split="test", name=str)
    with pytest.raises(UserError, match="outputs for the validation split, got none"):
        require_scores([], split="validation", name=str)
