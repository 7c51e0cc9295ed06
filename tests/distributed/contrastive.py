"""A small network that compares the samples of all processes, and trains in one or several.

Run as a program under Paddle's launcher, each process asserts what must hold between them, and the
first one writes what the test compares with a process alone.
"""

import contextlib
import functools
import sys
import types
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import passl  # noqa: F401  before paddle

# isort: split
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute
from paddle.nn import functional as F

from passl.distributed import collectives
from passl.distributed.processes import join_processes
from passl.engine import train
from passl.engine.execution import Execution
from passl.engine.precision import Precision
from passl.modeling.architectures import ARCHITECTURES, Architecture
from passl.modeling.layers import BatchNorm1D, BatchNorm2D
from passl.solver import build_optimizer
from passl.utils.config import get_config
from passl.utils.errors import PasslError

SAMPLES = 8
# What float32 holds exactly: Paddle's optimizers take them as that.
RATE, MOMENTUM = 1 / 16, 7 / 8
# dtype, steps, micro-batches a step.
RUNS = {
    "float32": ("float32", 1, 1),
    "float64": ("float64", 10, 1),
    "accumulated": ("float64", 2, 2),
}


class Contrastive(Architecture):
    """Finds for each image its other view among those of all processes (InfoNCE, both ways)."""

    additive = False
    equal_batches = True

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2D(3, 4, 3, stride=2),
            BatchNorm2D(4, momentum=MOMENTUM, sync=True),
            nn.ReLU(),
            nn.AdaptiveAvgPool2D(1),
            nn.Flatten(),
            nn.Linear(4, 8),
            BatchNorm1D(8, momentum=MOMENTUM, sync=True),
            nn.ReLU(),
            nn.Linear(8, 6),
            BatchNorm1D(6, momentum=MOMENTUM, sync=True, affine=False),
        )

    def forward(self, batch):
        view = batch["image"]
        one, two = (F.normalize(self.features(x)) for x in (view, view.flip([3]) * 0.9))
        if not self.training:
            return {"features": one}
        return {"loss": (info_nce(one, two) + info_nce(two, one)) / 2}


def info_nce(one, two):
    """The mean over the own rows of ``one``, each compared with all of ``two``."""
    right = collectives.process_rank() * len(one) + paddle.arange(len(one))
    everybodys = collectives.all_gather_with_gradient(two)
    return F.cross_entropy(one @ everybodys.T / 0.5, right)


def train_steps(processes, dtype, steps, micro):
    """Trains on this process's part of made-up images, with the engine's own parts.

    Returns:
        by name, the weights and running statistics at the end, and ``loss``, the mean over the
        processes of each forward pass.
    """
    paddle.seed(0)
    network = Contrastive()
    network.to(dtype=dtype)
    optimizer = build_optimizer({"name": "SGD", "momentum": MOMENTUM}, network)
    cfg = types.SimpleNamespace(
        recompute=False, to_static=False, parallel=types.SimpleNamespace(sharding=0, fusion_mb=25.0)
    )
    execution = Execution(cfg, network, optimizer, Precision(None, "cpu"), processes)
    network.train()
    losses = []
    network.register_forward_post_hook(
        lambda layer, inputs, outputs: losses.append(float(processes.mean(outputs["loss"])))
    )
    for step in range(steps):
        for part in range(micro):
            images = np.random.default_rng([step, part]).normal(size=(SAMPLES, 3, 9, 9))
            share = SAMPLES // processes.size
            mine = images[processes.rank * share :][:share]
            batch = {"image": paddle.to_tensor(mine, dtype=dtype)}
            execution.backward(batch, 1.0, part == micro - 1)
        assert bool(optimizer.step(RATE))
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return {**state, "loss": np.array(losses)}


# ------------------------------------------------ in two processes


def check_exchange(rank):
    """Order, dtypes, sums; and processes that do not fit together are told so and go on."""
    mine = paddle.to_tensor([[1.0, 2.0], [3.0, 4.0]]) + 10 * rank
    everybodys = [[1, 2], [3, 4], [11, 12], [13, 14]]
    for dtype in ("float32", "float64", "float16", "int64", "uint8"):
        gathered = collectives.all_gather(mine.astype(dtype))
        assert gathered.dtype == mine.astype(dtype).dtype and gathered.stop_gradient
        assert gathered.tolist() == everybodys
    assert collectives.all_reduce(mine).tolist() == [[12, 14], [16, 18]]
    assert collectives.all_reduce(mine.T).tolist() == [[12, 16], [14, 18]]
    assert collectives.all_gather(mine.T).tolist() == [[1, 3], [2, 4], [11, 13], [12, 14]]
    assert mine.tolist() == np.add([[1, 2], [3, 4]], 10 * rank).tolist(), "it is not changed"
    given = mine.clone()
    collectives.broadcast(given, source=1)
    assert given.tolist() == everybodys[2:]
    assert collectives.all_gather_object({"rank": rank}) == [{"rank": 0}, {"rank": 1}]

    for wrong, said in (
        (lambda: collectives.all_gather(paddle.ones([2 + rank, 3])), "[2, 3] in process 0, [3, 3]"),
        (lambda: collectives.all_gather_with_gradient(paddle.ones([2 - rank, 3])), "[1, 3] in"),
        (lambda: collectives.all_reduce(paddle.ones([2 + rank])), "[3] in process 1"),
        (lambda: collectives.all_reduce(paddle.ones([2], ["int32", "int64"][rank])), "or types"),
        (lambda: collectives.broadcast(paddle.ones([1] * (1 + rank))), "[1, 1] in process 1"),
        (lambda: collectives.gather_rows(np.zeros((2, 3 + rank))), "24 in process 0, 32"),
    ):
        refused(wrong, said)
        assert collectives.all_reduce(paddle.ones([1])).tolist() == [2]


def refused(act, said):
    try:
        act()
    except PasslError as error:
        assert said in str(error), error
    else:
        raise AssertionError(f"{said}: not refused")


def check_rows(rank):
    """Of unequal counts, none at all among them, in pieces, and of any dtype."""
    everything = np.arange(48).reshape(8, 2, 3)
    for dtype in (np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_):
        rows = everything.astype(dtype)
        found = collectives.gather_rows(rows[(slice(0, 3), slice(3, 8))[rank]])
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, rows)
    whole = collectives._PIECE
    for piece in (whole, 50, 1):  # of rows that take 24 bytes, and of labels that take 8
        collectives._PIECE = piece
        for counts in ((3, 5), (0, 4), (4, 0), (0, 0), (2, 2)):
            mine = slice(0, counts[0]) if rank == 0 else slice(counts[0], sum(counts))
            for rows in (everything[: sum(counts)].astype("float32"), np.arange(sum(counts))):
                np.testing.assert_array_equal(collectives.gather_rows(rows[mine]), rows)
    collectives._PIECE = whole


def check_batch_norm(rank):
    """Against Paddle's own on the joined batch, where the processes have unequal counts."""
    bounds = (slice(0, 5), slice(5, 8))[rank]
    for kind, paddles, shape in (
        (BatchNorm2D, nn.BatchNorm2D, (8, 3, 2, 3)),
        (BatchNorm1D, nn.BatchNorm1D, (8, 3)),
    ):
        for dtype, offset, tolerance in (
            ("float64", 2.0, 1e-12),
            ("float32", 2.0, 2e-6),
            ("float32", 1e3, 2e-4),  # squares of 1e6 would leave nothing of a variance of 1
            ("float16", 2.0, 1e-3),
        ):
            rng = np.random.default_rng(0)
            x = rng.normal(offset, 1.0, shape).astype(dtype).astype("float64")
            factor = rng.normal(size=shape)
            weight, bias = rng.normal(size=(2, 3))
            exact = "float64" if dtype == "float64" else "float32"
            paddles_own = paddles(3, momentum=MOMENTUM)
            expected = run_batch_norm(paddles_own, x, factor, weight, bias, "float64", "float64")
            layer = kind(3, momentum=MOMENTUM, sync=True)
            found = run_batch_norm(layer, x[bounds], factor[bounds], weight, bias, dtype, exact)
            axes = tuple(axis for axis in range(x.ndim) if axis != 1)
            biased = MOMENTUM + (1 - MOMENTUM) * x.var(axes)
            np.testing.assert_allclose(found["variance"], biased, rtol=tolerance)
            for name, value in found.items():
                whole = expected[name]
                if name in ("out", "to_x"):
                    whole = whole[bounds]
                    assert value.dtype == dtype, name
                elif name in ("to_weight", "to_bias"):
                    value = collectives.all_reduce(paddle.to_tensor(value)).numpy()
                error = np.abs(value.astype("float64") - whole).max() / (1 + np.abs(whole).max())
                assert error < tolerance, (kind, dtype, offset, name, error)

    layer = BatchNorm2D(3, sync=True)
    layer.weight.stop_gradient = True
    for frozen in (False, True):
        x = paddle.randn([4, 3, 2, 2])
        x.stop_gradient = frozen
        layer(x).square().sum().backward()
        assert (x.grad is None) == frozen
    assert layer.weight.grad is None and layer.bias.grad is not None
    layer.eval()
    before = layer._mean.numpy().copy()
    layer(paddle.ones([1 + rank, 3, 2, 2]))  # each by itself
    np.testing.assert_array_equal(layer._mean.numpy(), before)


def run_batch_norm(layer, x, factor, weight, bias, dtype, exact):
    layer.to(dtype=exact)
    layer.weight.set_value(weight.astype(exact))
    layer.bias.set_value(bias.astype(exact))
    x = paddle.to_tensor(x.astype(dtype), stop_gradient=False)
    out = layer(x)
    (out.astype(exact) * paddle.to_tensor(factor.astype(exact))).sum().backward()
    found = {
        "out": out, "to_x": x.grad, "to_weight": layer.weight.grad, "to_bias": layer.bias.grad,
        "mean": layer._mean, "variance": layer._variance,
    }  # fmt: skip
    return {name: tensor.numpy() for name, tensor in found.items()}


def check_gradient(rank):
    """In 16 bits, inside autocast and where the forward pass is made twice."""

    def gradient(dtype, around=contextlib.nullcontext, twice=False):
        gather = collectives.all_gather_with_gradient
        if twice:
            gather = functools.partial(recompute, gather, use_reentrant=False)
        rows = paddle.to_tensor([[1.0, 2.0]], dtype=dtype, stop_gradient=False)
        with around():
            found = gather(rows)
            assert found.dtype == rows.dtype and found.shape == [2, 2]
            factor = paddle.to_tensor([[1.0], [10.0]]) * (rank + 1)
            (found.astype("float32") * factor).sum().backward()
        return rows.grad

    for options in (
        {"dtype": "float32"}, {"dtype": "float64"}, {"dtype": "float16"},
        {"dtype": "float16", "around": paddle.amp.auto_cast},
        {"dtype": "float32", "around": paddle.amp.auto_cast},
        *([] if paddle.__version__.startswith("2.") else [{"dtype": "float32", "twice": True}]),
    ):  # fmt: skip
        found = gradient(**options)
        # Row r has the factor 10 ** r in the losses of both processes, which weigh 1 and 2.
        assert found.dtype == paddle.zeros([1], options["dtype"]).dtype
        assert found.tolist() == [[3 * 10**rank] * 2], options


class Exchanging(nn.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def check_static_programs():
    normalise = BatchNorm1D(2, sync=True)
    for function in (collectives.all_gather_with_gradient, collectives.all_reduce, normalise):
        layer = Exchanging(function)
        static = paddle.jit.to_static(layer.forward, full_graph=True)
        refused(lambda static=static: static(paddle.ones([2, 2])), "set to_static=false")


def main(config, run, results):
    ARCHITECTURES.register(Contrastive)
    train(get_config(config, [f"output_dir={run}"]))
    processes = join_processes()
    rank = processes.rank
    assert (collectives.process_rank(), collectives.process_count()) == (rank, 2)
    check_exchange(rank)
    check_rows(rank)
    check_batch_norm(rank)
    check_gradient(rank)
    check_static_programs()
    found = {name: train_steps(processes, *how) for name, how in RUNS.items()}
    flat = {f"{name}/{n}": array for name, state in found.items() for n, array in state.items()}
    assert np.isfinite(flat["float64/loss"]).all()
    for name, array in flat.items():  # the same weights and statistics, to the last bit
        theirs = collectives.all_gather(paddle.to_tensor(array.reshape(1, -1))).numpy()
        np.testing.assert_array_equal(theirs[0], theirs[1], name)
    if processes.is_first:
        np.savez(results, **flat)
    print("all of it holds")


if __name__ == "__main__":
    main(*sys.argv[1:4])
