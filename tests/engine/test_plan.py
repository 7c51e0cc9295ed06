"""What a config makes of batches: accumulation, batch norms over all processes."""

import re

import pytest
from paddle import nn

from passl.distributed.processes import Processes
from passl.engine.checkpoint import Checkpoint
from passl.engine.plan import make_plan
from passl.modeling.architectures.classifier import Classifier
from passl.modeling.layers import BatchNorm1D, BatchNorm2D, has_sync_batch_norms, sync_batch_norms
from passl.utils.config import get_config
from passl.utils.errors import PasslError

CONV_MLP = {
    "name": "ConvMlp", "stem_channels": 8, "conv_depth": 1, "embed_dims": [8, 8],
    "depths": [1, 1], "mlp_ratios": [1, 1],
}  # fmt: skip


def test_accumulation_is_refused_where_the_loss_compares_samples(config_file, monkeypatch):
    overrides = ["dataloader.train.sampler.batch_size=4", "global_batch_size=16"]
    cfg = get_config(config_file(), overrides)
    assert make_plan(cfg, Processes()).accumulation == 4
    monkeypatch.setattr(Classifier, "additive", False)
    with pytest.raises(PasslError) as caught:
        make_plan(cfg, Processes())
    for said in (
        "global_batch_size 16", "accumulated over 4 batches", "the loss of Classifier",
        "4 of batch_size 4", "batch_size=16", "global_batch_size=4",
    ):  # fmt: skip
        assert said in str(caught.value)
    for remedy in ("dataloader.train.sampler.batch_size=16", "global_batch_size=4"):
        assert make_plan(get_config(config_file(), [*overrides, remedy]), Processes())


@pytest.fixture
def several(monkeypatch):
    """Processes that do not wait for the others, which are not there."""
    monkeypatch.setattr(Processes, "wait", lambda self: None)
    return lambda size: Processes(0, size)


def test_more_processes_are_the_other_remedy(config_file, monkeypatch, several):
    monkeypatch.setattr(Classifier, "additive", False)
    overrides = ["dataloader.train.sampler.batch_size=4", "global_batch_size=16"]
    cfg = get_config(config_file(), overrides)
    assert make_plan(cfg, several(4)).accumulation == 1
    with pytest.raises(PasslError, match="4 of batch_size 4.*batch_size=8.*global_batch_size=8"):
        make_plan(cfg, several(2))


def test_a_static_program_that_would_gather_is_refused(config_file, monkeypatch, several):
    static = get_config(config_file(), ["to_static=true"])
    make_plan(static, several(2))
    monkeypatch.setattr(Classifier, "equal_batches", True)
    make_plan(static, several(1))
    make_plan(get_config(config_file()), several(2))
    with pytest.raises(PasslError, match="processes exchange tensors.*set to_static=false"):
        make_plan(static, several(2))


def test_batch_norms_over_all_processes_are_asked_for_by_the_config(config_file):
    model = {"architecture": CONV_MLP}
    for overrides, wanted in (([], False), (["parallel.sync_batch_norm=true"], True)):
        plan = make_plan(get_config(config_file(model=model), overrides), Processes())
        norms = [layer for layer in plan.architecture.sublayers() if isinstance(layer, BatchNorm2D)]
        assert len(norms) > 3 and {layer.sync for layer in norms} == {wanted}
        assert plan.equal_batches == wanted  # else a stand-in would be in the statistics of all
    with pytest.raises(PasslError, match="no batch norms; set parallel.sync_batch_norm=false"):
        make_plan(get_config(config_file(), ["parallel.sync_batch_norm=true"]), Processes())


def test_what_cannot_be_synchronised_is_named():
    network = nn.Sequential(BatchNorm2D(2), nn.Sequential(nn.BatchNorm1D(2)), BatchNorm1D(2))
    with pytest.raises(PasslError, match=re.escape("1.0 is Paddle's own BatchNorm1D")):
        sync_batch_norms(network)
    assert not has_sync_batch_norms(network)
    network = nn.Sequential(BatchNorm2D(2), BatchNorm1D(2))
    sync_batch_norms(network)
    assert has_sync_batch_norms(network) and all(layer.sync for layer in network)


def test_a_resumed_run_keeps_them(trained):
    config, weights = trained
    checkpoint = Checkpoint.open(weights)
    checkpoint.check_config(get_config(config, ["parallel.fusion_mb=3"]))
    with pytest.raises(PasslError, match="parallel.sync_batch_norm = False"):
        checkpoint.check_config(get_config(config, ["parallel.sync_batch_norm=true"]))
