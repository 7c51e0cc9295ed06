"""How the network is run in training: precision, memory, static program, several processes."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, ContextManager, Dict, Optional, Sequence, Tuple

import paddle
from paddle.distributed.fleet.utils import recompute

from passl.distributed.processes import Processes
from passl.engine.main_gradients import MainGradients
from passl.engine.precision import Precision
from passl.engine.sharding import shard
from passl.modeling.architectures import Architecture
from passl.modeling.architectures.contrastive import PULL
from passl.modeling.layers.functional import single_backward
from passl.solver import Optimizer
from passl.utils.config import Config, origin_of
from passl.utils.errors import PasslError
from passl.utils.lent_home import lend_home


class Execution:
    """Runs forward and backward passes as a config says.

    The weights are in their places by now: they are cast and shared out from here on.

    Args:
        cfg: the whole config.
        architecture: what learns.
        optimizer: over its parameters.
        precision: what is computed in 16 bits.
        processes: those that train together.

    Raises:
        PasslError: settings that exclude each other, or a network without blocks to recompute.
    """

    def __init__(
        self,
        cfg: Config,
        architecture: Architecture,
        optimizer: Optimizer,
        precision: Precision,
        processes: Processes,
    ):
        self._architecture = architecture
        self._optimizer, self._precision = optimizer, precision
        if cfg.recompute and cfg.to_static:
            raise PasslError(
                "recompute and to_static exclude each other: a static program plans its own memory",
                place=origin_of(cfg, "recompute"),
            )
        precision.prepare(architecture, optimizer)
        if cfg.recompute:
            recompute_blocks(architecture)
        if cfg.to_static:
            # By itself the executor runs operations that do not depend on one another side by side,
            # two that draw from one generator among them: the same seed gives other numbers then.
            paddle.set_flags({"FLAGS_new_executor_serial_run": True})
            lend_home()  # it is translated when it meets other shapes first
            architecture.forward = paddle.jit.to_static(architecture.forward, full_graph=True)
        self._main: Optional[MainGradients] = None
        if precision.has_narrow_weights:
            learning = [p for p in architecture.parameters() if not p.stop_gradient]
            bucket = int(cfg.parallel.fusion_mb * 2**20)
            self._main = MainGradients(learning, processes.size, bucket)
        self._network: Any = architecture
        self._local: Callable[[], ContextManager[None]] = contextlib.nullcontext
        if cfg.parallel.sharding and processes.size > 1:
            self._network = shard(architecture, optimizer, cfg, processes)
        elif processes.size > 1:
            self._network = paddle.DataParallel(
                architecture, comm_buffer_size=cfg.parallel.fusion_mb
            )
        if processes.size > 1:
            self._local = self._network.no_sync

    def backward(
        self, batch: Dict[str, Any], weight: float, exchange: bool
    ) -> Tuple[paddle.Tensor, Dict[str, paddle.Tensor]]:
        """Adds the gradients of a batch to those there are.

        Args:
            batch: as the architecture takes it.
            weight: factor of the loss in the gradients. A batch that weighs nothing changes no
                buffer either: the statistics of a batch normalisation stay as they are.
            exchange: whether the processes exchange their gradients, those of the calls before
                included.

        Returns:
            The loss, unscaled, and the architecture's ``scalars``; all on the device.
        """
        kept = [] if weight else [(b, b.clone()) for b in self._architecture.buffers()]
        outputs = self._backward(batch, weight, exchange)
        for buffer, value in kept:
            buffer.set_value(value)
        return _told(outputs)

    def backward_together(
        self, batches: Sequence[Dict[str, Any]]
    ) -> Tuple[paddle.Tensor, Dict[str, paddle.Tensor]]:
        """Adds the gradients of batches as of one, whose samples are compared with one another.

        In two passes over them, see ``Contrastive``; both draw the same random numbers. What the
        first one does to buffers is undone.

        Args:
            batches: as the architecture takes them, all of a step.

        Returns:
            As ``backward``, of all together.
        """
        architecture: Any = self._architecture
        kept = [(buffer, buffer.clone()) for buffer in architecture.buffers()]
        states, parts = [], []
        with paddle.no_grad(), self._precision.autocast():
            for batch in batches:
                states.append(paddle.get_rng_state())
                parts.append(architecture.embed(batch))
        for buffer, value in kept:
            buffer.set_value(value)
        embeddings = [paddle.concat(column) for column in zip(*parts)]
        for tensor in embeddings:
            tensor.stop_gradient = False
        used = architecture.compared_by()
        with self._local(), single_backward():
            outputs = architecture.compare(embeddings)
            outputs["loss"].backward()
        own = [parameter.grad.detach().clone() for parameter in used]
        for parameter in used:
            parameter.clear_grad()
        begin = 0
        for batch, state, part in zip(batches, states, parts):
            end = begin + part[0].shape[0]
            pull = [tensor.grad[begin:end] for tensor in embeddings]
            begin, last = end, end == embeddings[0].shape[0]  # the same batch may come twice
            paddle.set_rng_state(state)
            self._backward({**batch, PULL: [*pull, *own] if last else pull}, 1.0, last)
        return _told(outputs)

    def _backward(self, batch: Dict[str, Any], weight: float, exchange: bool) -> Dict[str, Any]:
        exchanged_by_paddle = exchange and self._main is None
        local = contextlib.nullcontext() if exchanged_by_paddle else self._local()
        with local, single_backward():
            with self._precision.autocast():
                outputs = self._network(batch)
            loss = outputs["loss"]
            scaled = loss if weight == 1.0 else loss * weight
            if self._optimizer.loss_scaling.moves:
                scaled = scaled * self._optimizer.loss_scaling.scale
            scaled.backward()
        if self._main is not None:
            self._main.take()
            if exchange:
                self._main.give()
        return outputs

    def evaluating(self) -> ContextManager[Any]:
        """Returns the context of an evaluation, which is computed in float32 with float32 weights.

        So it finds what ``tools/eval.py`` finds in the checkpoint.
        """
        return self._optimizer.masters.in_place()


def _told(outputs: Dict[str, Any]) -> Tuple[paddle.Tensor, Dict[str, paddle.Tensor]]:
    scalars = {name: value.detach() for name, value in outputs.get("scalars", {}).items()}
    return outputs["loss"].detach(), scalars


def recompute_blocks(architecture: Architecture) -> None:
    """Lets the blocks of a network forget their activations, and compute them again backward.

    Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174. Blocks are the
    layers whose class says ``recompute = True``. Dropout draws the same numbers both times.

    Raises:
        PasslError: there are none, or this PaddlePaddle cannot do it here.
    """
    if paddle.__version__.startswith("2.") and paddle.get_device() == "cpu":
        raise PasslError(
            "PaddlePaddle 2 recomputes on a GPU alone; set recompute=false, or use PaddlePaddle 3"
        )
    blocks = [layer for layer in architecture.sublayers() if getattr(layer, "recompute", False)]
    if not blocks:
        raise PasslError("the network has no blocks that can be recomputed; set recompute=false")
    for block in blocks:
        block.forward = _recomputing(block.forward)


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    # The other implementation, a PyLayer, is one that DataParallel cannot look into.
    return lambda *inputs: recompute(forward, *inputs, use_reentrant=False)
