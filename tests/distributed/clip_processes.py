"""Trains CLIP on a part of made-up batches of pairs, in one process or several.

Run as a program under Paddle's launcher, each process asserts that all have the same at the end,
and the first one writes what the test compares with a process alone.

usage: clip_processes.py RESULTS
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import passl  # noqa: F401  before paddle

# isort: split
from clip import small_clip, small_pairs
from stepping import assert_same_in_all_processes, trained

from passl.distributed.processes import Processes, join_processes

PAIRS = 16
RATE = 1 / 16  # what float32 holds exactly: Paddle's optimizers take it as that
STEPS = {"float32": 1, "float64": 10}
# Name: loss, parts of a process's batch.
CASES = {"softmax": ("softmax", 1), "sigmoid": ("sigmoid", 1), "two passes": ("softmax", 2)}


def train(case, dtype, processes, parts=None):
    """Returns what ``trained`` does of a case, or of it in another number of parts."""
    loss, its_parts = CASES[case]
    network = small_clip("ViT", dtype, loss=loss)
    batches = [small_pairs("ViT", PAIRS, seed, dtype) for seed in range(STEPS[dtype])]
    parts = its_parts if parts is None else parts
    return trained(network, PAIRS, batches, processes, rate=RATE, parts=parts)


def main(results):
    processes = join_processes()
    flat = {
        f"{case}/{dtype}/{key}": array
        for case in CASES
        for dtype in STEPS
        for key, array in train(case, dtype, processes).items()
    }
    assert_same_in_all_processes(flat)
    if processes.is_first:
        np.savez(results, **flat)
    print("all of it holds")


if __name__ == "__main__":
    main(*sys.argv[1:])

__all__ = ["STEPS", "Processes", "train"]
