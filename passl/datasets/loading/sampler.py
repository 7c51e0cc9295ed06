"""Which samples make up which batch: a function of seed and position, nothing else."""

from __future__ import annotations

from typing import Iterator, List

import numpy as np

from passl.datasets.dataset import SampleKey
from passl.utils.seeding import batch_rng, epoch_order


class TrainingBatches:
    """The micro-batches of a training run from one step to another, over all its epochs.

    One stream for the whole run: workers need no restart between epochs, and a resumed run
    simply starts further along. An epoch shows ``steps_per_epoch × global_batch`` images; the
    few that do not fill a global batch are left out of that epoch (others each time, since
    every epoch has its own order).

    Args:
        length: samples in the dataset.
        global_batch: samples an optimizer step.
        micro_batch: samples a yielded list; divides ``global_batch``.
        seed: the run's seed.
        start_step, end_step: optimizer steps, counted from 0; the end is excluded.
        repeats: times that an image stands in a batch, each with an augmentation of its own
            (repeated augmentation, Hoffer et al., arXiv 1901.09335). An epoch is as many steps as
            without, and so shows a part of the images only, others each time.
        rank, size: which of how many processes this is. Each takes an equal part of every
            micro-batch, so that all together see the same stream whatever their number.

    Yields:
        lists of ``micro_batch / size`` SampleKeys.
    """

    def __init__(
        self,
        length: int,
        global_batch: int,
        micro_batch: int,
        seed: int,
        start_step: int,
        end_step: int,
        repeats: int = 1,
        rank: int = 0,
        size: int = 1,
    ):
        assert global_batch % micro_batch == 0 and global_batch <= length
        assert micro_batch % size == 0 and 0 <= rank < size
        self.length = length
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self.seed = seed
        self.start_step = start_step
        self.end_step = end_step
        self.repeats = repeats
        self.share = micro_batch // size
        self.rank = rank

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch."""
        return self.length // self.global_batch

    def __len__(self) -> int:
        return (self.end_step - self.start_step) * (self.global_batch // self.micro_batch)

    def rng(self, position: int) -> np.random.Generator:
        """Returns what the transforms of the list at ``position``, from 0, draw from."""
        step, micro = divmod(position, self.global_batch // self.micro_batch)
        return batch_rng(self.seed, self.start_step + step, micro, self.rank)

    def __iter__(self) -> Iterator[List[SampleKey]]:
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(self.start_step, self.end_step):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = epoch_order(self.seed, epoch, self.length)
            first = (step % self.steps_per_epoch) * self.global_batch
            for begin in range(first, first + self.global_batch, self.micro_batch):
                mine = begin + self.rank * self.share
                yield [
                    SampleKey(int(order[i // self.repeats]), epoch, i % self.repeats, self.seed)
                    for i in range(mine, mine + self.share)
                ]


class EvaluationBatches:
    """Every sample once, in order; the last batch may be short.

    Args:
        length: samples in the dataset.
        batch_size: samples a batch.
        rank, size: which of how many processes this is. They take the batches in turn, so that
            each sample is in exactly one of them; where there are few, some have none.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, size: int = 1):
        self.length = length
        self.batch_size = batch_size
        self.starts = range(rank * batch_size, length, size * batch_size)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[List[SampleKey]]:
        for begin in self.starts:
            yield [SampleKey(i) for i in range(begin, min(begin + self.batch_size, self.length))]
