"""Names with two numbers, running statistics, and arrays that are no weights."""

import pytest

from passl.weights.naming import Naming, namings

LAYERS = {
    "backbone.stages.{i}.{j}.norm": "stages.{i}.blocks.{j}.bn",
    "backbone.down.{i}": "stages.{i}.down",
}


@pytest.mark.smoke
def test_two_numbers_keep_their_places():
    naming = Naming("someone", "torch", LAYERS)
    assert naming.to_here("stages.2.blocks.13.bn.weight") == "backbone.stages.2.13.norm.weight"
    assert naming.to_there("backbone.stages.2.13.norm.bias", 1) == "stages.2.blocks.13.bn.bias"
    assert naming.to_here("stages.3.down.weight") == "backbone.down.3.weight"
    assert naming.to_here("stages.2.blocks.x.bn.weight") is None


@pytest.mark.smoke
@pytest.mark.parametrize("convention, mean", [("torch", "running_mean"), ("paddle", "_mean")])
def test_running_statistics_have_the_names_of_their_convention(convention, mean):
    naming = Naming("someone", convention, LAYERS)
    there, here = f"stages.0.blocks.1.bn.{mean}", "backbone.stages.0.1.norm._mean"
    assert naming.to_here(there) == here and naming.to_there(here, 1) == there


@pytest.mark.smoke
def test_what_is_no_weight_is_known_and_left_out():
    released = {"someone": ("torch", LAYERS, ("stages.{i}.table",)), "other": ("paddle", LAYERS)}
    naming = namings(released)["someone"]
    for name in ("stages.5.table", "stages.0.blocks.1.bn.num_batches_tracked"):
        assert naming.leaves_out(name) and naming.knows(name) and naming.to_here(name) is None
    for name in ("stages.5.tables", "elsewhere.num_batches_tracked"):
        assert not naming.knows(name)
    assert not namings(released)["other"].knows("stages.5.table")
