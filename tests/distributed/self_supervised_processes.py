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
from self_supervised import METHODS, method, views
from stepping import assert_same_in_all_processes, trained

from passl.distributed.processes import Processes, join_processes
from passl.modeling.layers import split_batch_norms

IMAGES = 16
RATE = 1 / 16  # what float32 holds exactly: Paddle's optimizers take it as that
STEPS = {"float32": 1, "float64": 10}


def train(name, dtype, processes, splits=1):
    """Returns what ``trained`` does.

    Args:
        splits: as how many processes MoCo's batch norms treat those of one.
    """
    network = method(name, dtype=dtype, **({"split_batch_norm": splits} if splits > 1 else {}))
    for layer in network.sublayers():
        if hasattr(layer, "_momentum"):  # the share of old running statistics
            layer._momentum = 0.875
    batches = [views(IMAGES, seed=number, dtype=dtype) for number in range(STEPS[dtype])]
    found = trained(network, IMAGES, batches, processes, rate=RATE)
    split_batch_norms(network, 1)
    return found


def main(results):
    processes = join_processes()
    flat = {}
    for name in METHODS:
        for dtype in STEPS:
            for key, array in train(name, dtype, processes).items():
                flat[f"{name}/{dtype}/{key}"] = array
    assert_same_in_all_processes(flat)  # statistics, queue and twin too
    if processes.is_first:
        np.savez(results, **flat)
    print("all of it holds")


if __name__ == "__main__":
    main(*sys.argv[1:])

__all__ = ["IMAGES", "STEPS", "Processes", "train"]
