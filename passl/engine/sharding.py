"""Sharing out the optimizer's state among processes, through Paddle's group-sharded training.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", arXiv
1910.02054. A parameter belongs to one process, which alone gets the sum of its gradients and makes
its steps; all processes then get it from there.

Paddle (2.6 and 3) has one implementation for its levels ``os`` and ``os_g``. While a step goes
forward and backward each process holds room for the gradients of all parameters, so that only the
optimizer's state is shared out at the moment at which memory is shortest: stage 1 of the paper.
"""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator

import numpy as np
import paddle
from paddle.distributed.sharding import group_sharded_parallel

from passl.distributed import collectives
from passl.distributed.processes import Processes
from passl.modeling.architectures import Architecture
from passl.solver import Optimizer
from passl.utils.arrays import own_array
from passl.utils.config import Config, origin_of
from passl.utils.errors import PasslError
from passl.utils.logging import logger

_STAGES = (0, 1, 2)


def check_sharding(cfg: Config, device: str, processes: Processes) -> None:
    """Raises PasslError where ``parallel.sharding`` cannot be done, or not with other settings."""
    stage, place = cfg.parallel.sharding, origin_of(cfg.parallel, "sharding")
    if not stage:
        return
    if stage not in _STAGES:
        raise PasslError(f"parallel.sharding is 0 or 2, not {stage}", place=place)
    if device != "gpu" or processes.size == 1:
        raise PasslError(
            "parallel.sharding needs several processes, each on a GPU: PaddlePaddle's "
            "group-sharded training refuses a processor; set parallel.sharding=0",
            place=place,
        )
    for other, wrong in (
        ("amp.level=O2", cfg.amp is not None and cfg.amp.level == "O2"),
        ("to_static", cfg.to_static),
    ):
        if wrong:
            raise PasslError(f"parallel.sharding and {other} exclude each other", place=place)
    if stage == 1:
        logger.info("parallel.sharding: 1 is the same as 2: PaddlePaddle has one way for both")


class Shards:
    """What the optimizer of one process needs to know of those of the others.

    Args:
        optimizer: Paddle's group-sharded one, which averages gradients and hands parameters on.
        processes: those that share.
    """

    def __init__(self, optimizer: Any, processes: Processes):
        self.optimizer = optimizer
        self.size = processes.size
        self._rank = processes.rank

    def sum(self, tensor: paddle.Tensor) -> paddle.Tensor:
        """Returns the sum over all processes, on the device; all must call it."""
        return collectives.all_reduce(tensor)

    def gather(self, own: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Returns the arrays of all processes, in the first of them; {} in the others.

        Args:
            own: those of this process; no other one has an array of the same name.
        """
        listings = collectives.all_gather_object(
            [(name, array.shape, str(array.dtype)) for name, array in own.items()]
        )
        everything: Dict[str, np.ndarray] = {}
        # One after the other: no GPU has to hold more than one array of the others.
        for owner, listing in enumerate(listings):
            for name, shape, dtype in listing:
                mine = owner == self._rank
                tensor = paddle.to_tensor(own[name]) if mine else paddle.empty(shape, dtype)
                collectives.broadcast(tensor, owner)
                if self._rank == 0:
                    everything[name] = own_array(tensor)
        return everything


class ShardedNetwork:
    """A network whose gradients go to the process that each parameter belongs to.

    Args:
        network: Paddle's, which by itself exchanges them with every backward pass: its forward pass
            clears those of other processes' parameters, and arms a hook of each parameter that
            exchanges once.
    """

    def __init__(self, network: Any):
        self._network = network
        self._exchanges = True
        self._accumulating = False  # gradients of this step are waiting to be exchanged

    def __call__(self, batch: Dict[str, Any]) -> Dict[str, Any]:
        if self._accumulating:
            self._network._clear_counters()  # arms the hooks, and clears no gradient
            outputs = self._network._layer(batch)
        else:
            outputs = self._network(batch)
        if not self._exchanges:
            self._network._grad_reduced = [False] * len(self._network._grad_reduced)
        self._accumulating = not self._exchanges
        return outputs

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Lets backward passes add up gradients; the first one outside exchanges the sums."""
        self._exchanges = False
        try:
            yield
        finally:
            self._exchanges = True


def shard(
    architecture: Architecture, optimizer: Optimizer, cfg: Config, processes: Processes
) -> ShardedNetwork:
    """Shares out the optimizer's state; returns what to call for a forward pass."""
    network, sharded, _ = group_sharded_parallel(
        architecture,
        optimizer.paddle,
        "os_g",
        buffer_max_size=int(cfg.parallel.fusion_mb * 2**20),
    )
    optimizer.shards = Shards(sharded, processes)
    return ShardedNetwork(network)
