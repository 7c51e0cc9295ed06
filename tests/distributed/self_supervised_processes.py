"""Trains the self-supervised methods on a part of made-up batches, in one process or several.

Run as a program under Paddle's launcher, each process asserts that all have the same at the end,
and the first one writes what the test compares with a process alone.

usage: self_supervised_processes.py RESULTS
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import passl  # noqa: F401  before paddle

# isort: split
import paddle
from self_supervised import METHODS, method, stepping, views

from passl.distributed import collectives
from passl.distributed.processes import Processes, join_processes
from passl.engine.running_statistics import share_running_statistics
from passl.modeling.layers import split_batch_norms

IMAGES = 16
RATE = 1 / 16  # what float32 holds exactly: Paddle's optimizers take it as that
STEPS = {"float32": 1, "float64": 10}


def train(name, dtype, processes, splits=1):
    """Returns, by name, state and gradients at the end, and the mean loss of each step.

    The gradients are those of the first step.

    Args:
        splits: as how many processes MoCo's batch norms treat those of one.
    """
    network = method(name, dtype=dtype, **({"split_batch_norm": splits} if splits > 1 else {}))
    for layer in network.sublayers():
        if hasattr(layer, "_momentum"):  # the share of old running statistics
            layer._momentum = 0.875
    share = IMAGES // processes.size
    step, optimizer = stepping(network, share, rate=RATE, total=STEPS[dtype], processes=processes)
    found, losses = {}, []
    make = optimizer.step

    def recording(rate):
        if not losses:
            for key, parameter in network.named_parameters():
                if parameter.grad is not None:
                    found[f"gradient/{key}"] = parameter.grad.numpy()
        return make(rate)

    optimizer.step = recording
    for number in range(STEPS[dtype]):
        mine = slice(processes.rank * share, (processes.rank + 1) * share)
        batch = {key: x[mine] for key, x in views(IMAGES, seed=number, dtype=dtype).items()}
        result = step(number, batch)
        assert bool(result.finite)
        losses.append(processes.mean(result.losses[0].reshape([1])).item())
    share_running_statistics(network, processes)
    split_batch_norms(network, 1)
    return {
        **{key: tensor.numpy() for key, tensor in network.state_dict().items()},
        **found,
        "loss": np.array(losses),
    }


def main(results):
    processes = join_processes()
    flat = {}
    for name in METHODS:
        for dtype in STEPS:
            for key, array in train(name, dtype, processes).items():
                flat[f"{name}/{dtype}/{key}"] = array
    for name, array in flat.items():  # the same to the last bit, statistics, queue and twin too
        theirs = collectives.all_gather(paddle.to_tensor(array.reshape(1, -1))).numpy()
        for other in theirs[1:]:
            np.testing.assert_array_equal(theirs[0], other, name)
    if processes.is_first:
        np.savez(results, **flat)
    print("all of it holds")


if __name__ == "__main__":
    main(*sys.argv[1:])

__all__ = ["IMAGES", "STEPS", "Processes", "train"]
