"""Randomness as a function of where one is, so that no random state ever needs saving.

What one image gets is a function of (seed, epoch, index, copy); what a whole batch or the
network gets is a function of (seed, global step). Independent streams come from NumPy's
SeedSequence, which is built to hash such tuples; the leading tag keeps the two kinds apart.
"""

from __future__ import annotations

import numpy as np

_SAMPLE, _STEP, _ORDER, _SPLIT, _BATCH = range(5)


def sample_rng(seed: int, epoch: int, index: int, copy: int = 0) -> np.random.Generator:
    """Returns the generator of everything random about one image in one epoch."""
    return np.random.default_rng((_SAMPLE, seed, epoch, index, copy))


def batch_rng(seed: int, step: int, micro: int = 0, rank: int = 0) -> np.random.Generator:
    """Returns the generator of what is drawn for a whole batch: one micro-batch of one process."""
    return np.random.default_rng((_BATCH, seed, step, micro, rank))


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Returns the seed for ``paddle.seed`` before a step: dropout and stochastic depth."""
    return int(np.random.SeedSequence((_STEP, seed, step, rank)).generate_state(1)[0])


def derived_rng(rng: np.random.Generator, number: int) -> np.random.Generator:
    """Returns a generator that follows from another one's seed and a number from 1.

    It does not depend on what the other has drawn, and draws nothing from it.
    """
    bits = rng.bit_generator
    # Called seed_seq from NumPy 1.25 on.
    seed = bits.seed_seq if hasattr(bits, "seed_seq") else bits._seed_seq
    key = (*seed.spawn_key, number)
    return np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=key))


def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """Returns the order of an epoch: int64 ``[length]``, a permutation."""
    return np.random.default_rng((_ORDER, seed, epoch)).permutation(length)


def split_order(length: int) -> np.ndarray:
    """Returns the fixed order in which a set is cut into parts: int64 ``[length]``.

    It does not depend on the run's seed: a held-out slice must stay held out.
    """
    return np.random.default_rng((_SPLIT,)).permutation(length)
