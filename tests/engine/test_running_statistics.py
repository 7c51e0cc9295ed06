"""Batch norms of several processes evaluate, and are saved, with the same running statistics."""

import threading

import numpy as np
import paddle
import pytest
import yaml
from helpers import small_config
from paddle import nn

from passl.distributed.processes import Processes
from passl.engine import train
from passl.engine.execution import Execution
from passl.engine.running_statistics import share_running_statistics
from passl.modeling.layers.batch_norm import BatchNorm2D
from passl.utils.config import get_config
from passl.weights import WeightFile


class Together(Processes):
    """Processes that are threads of this one, and meet to add up."""

    def __init__(self, rank, size, meeting, table):
        super().__init__(rank, size)
        object.__setattr__(self, "meeting", meeting)
        object.__setattr__(self, "table", table)

    def mean(self, tensor):
        self.table[self.rank] = tensor.astype("float64").numpy()
        self.meeting.wait(timeout=20)
        return paddle.to_tensor(np.mean(self.table, axis=0)).astype(tensor.dtype)


def network(kind, seed):
    rng = np.random.default_rng(seed)
    layers = [kind(4), nn.Linear(4, 4), kind(3)]
    for layer in (layers[0], layers[2]):
        for name in ("_mean", "_variance"):
            tensor = getattr(layer, name)
            tensor.set_value(rng.normal(size=tensor.shape).astype(np.float32) ** 2)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("kind", [BatchNorm2D, nn.BatchNorm2D, nn.BatchNorm])
def test_they_become_the_mean_over_the_processes_and_nothing_else_changes(kind):
    networks = [network(kind, seed) for seed in range(3)]
    before = [{n: t.numpy().copy() for n, t in net.state_dict().items()} for net in networks]
    meeting, table = threading.Barrier(3), [None] * 3
    threads = [
        threading.Thread(
            target=share_running_statistics, args=(net, Together(rank, 3, meeting, table))
        )
        for rank, net in enumerate(networks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    moving = [name for name in before[0] if name.endswith(("_mean", "_variance"))]
    assert len(moving) == 4
    for rank, net in enumerate(networks):
        for name, tensor in net.state_dict().items():
            if name in moving:
                mean = np.mean([b[name].astype(np.float64) for b in before], axis=0)
                np.testing.assert_array_equal(tensor.numpy(), mean.astype(np.float32), name)
                assert (tensor.numpy() != before[rank][name]).any()
            else:
                np.testing.assert_array_equal(tensor.numpy(), before[rank][name], name)


def test_a_process_alone_keeps_its_own():
    alone = network(BatchNorm2D, 0)
    before = {name: tensor.numpy().copy() for name, tensor in alone.state_dict().items()}
    share_running_statistics(alone, Processes())
    for name, tensor in alone.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name], name)


def test_a_step_that_is_skipped_leaves_no_trace_in_them(photos, tmp_path, monkeypatch):
    """Else they would be NaN from then on, and the run could neither be tested nor go on."""
    path = tmp_path / "small.yaml"
    cfg = small_config(photos, epochs=1, checkpoint={"interval_steps": None})
    cfg["model"]["architecture"] = {
        "name": "ConvMlp", "stem_channels": 8, "conv_depth": 1, "embed_dims": [8, 8, 8],
        "depths": [1, 1, 1], "mlp_ratios": [1, 1, 1],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(cfg))
    backward, calls = Execution.backward, []

    def once_infinite(self, batch, weight, exchange):
        calls.append(batch)
        if len(calls) == 3:
            batch = {**batch, "image": batch["image"] * float("inf")}
        return backward(self, batch, weight, exchange)

    monkeypatch.setattr(Execution, "backward", once_infinite)
    record = train(get_config(path, [f"output_dir={tmp_path / 'run'}"]))
    assert record["split"] == "test"
    with WeightFile(tmp_path / "run" / "checkpoints" / "latest.safetensors") as file:
        assert file.metadata["progress"]["bad_steps"] == 1
        means = [n for n in file.tensors if n.endswith(("_mean", "_variance"))]
        assert means and all(np.isfinite(file.read(name)).all() for name in means)
        assert any(file.read(name).any() for name in means)
