"""The self-supervised methods in two and four real processes: the run of one with all images."""

import functools

import numpy as np
import paddle
import pytest
from helpers import ROOT, running
from self_supervised import METHODS, method
from self_supervised_processes import STEPS, train
from stepping import assert_close

from passl.distributed import collectives
from passl.distributed.processes import Processes
from passl.modeling.architectures import simclr

PROGRAM = ROOT / "tests" / "distributed" / "self_supervised_processes.py"


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return running(PROGRAM, tmp_path_factory)


@functools.lru_cache(None)
def alone(name, dtype, splits=1):
    return train(name, dtype, Processes(), splits)


@pytest.mark.parametrize(
    "count", [pytest.param(2, marks=pytest.mark.smoke), pytest.param(4, marks=pytest.mark.full)]
)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", STEPS)
def test_processes_train_what_one_does(together, count, name, dtype):
    """1 × 16 is 2 × 8 is 4 × 4: the first step in float32, ten steps in float64.

    MoCo's processes normalise by themselves and shuffle: one process does so with as many parts.
    """
    found = together(count)
    expected = alone(name, dtype, count if name == "MoCo" else 1)
    prefix = f"{name}/{dtype}/"
    found = {k[len(prefix) :]: array for k, array in found.items() if k.startswith(prefix)}
    assert_close(found, expected, dtype)


@pytest.mark.parametrize("name", METHODS)
def test_every_weight_of_that_run_learns(name):
    """Else the comparison would say little; but for biases that a batch norm takes out again."""
    before = dict(method(name, dtype="float64").named_parameters())
    after = alone(name, "float64")
    for key, parameter in before.items():
        if key.endswith("fcs.0.bias") and name == "BYOL":
            continue
        assert np.abs(after[key] - parameter.numpy()).max() > 1e-5, key


def test_a_gather_without_gradient_is_another_gradient(monkeypatch):
    """The loss alone would not tell: it is right, and the gradient that leaves out is not."""
    rng = np.random.default_rng(0)
    everything = rng.normal(size=(8, 5))

    def gathering(with_gradient):
        """Two processes in one: each has half of the rows, and the other's are gathered."""
        rows = paddle.to_tensor(everything, stop_gradient=False)
        z = rows / rows.norm(axis=1, keepdim=True)
        total = 0
        for rank in (0, 1):
            one, two = z[2 * rank : 2 * rank + 2], z[4 + 2 * rank : 6 + 2 * rank]
            others = z if with_gradient else z.detach()
            gathered = paddle.concat([others[:4], others[4:]], axis=1)
            monkeypatch.setattr(simclr, "process_rank", lambda rank=rank: rank)
            monkeypatch.setattr(simclr, "process_count", lambda: 2)
            monkeypatch.setattr(simclr, "all_gather_with_gradient", lambda _, g=gathered: g)
            total = total + simclr.nt_xent(one, two, 0.5)[0] / 2
        total.backward()
        return total.item(), rows.grad.numpy()

    loss, gradient = gathering(with_gradient=True)
    wrong_loss, wrong_gradient = gathering(with_gradient=False)
    monkeypatch.undo()
    assert simclr.all_gather_with_gradient is collectives.all_gather_with_gradient
    rows = paddle.to_tensor(everything, stop_gradient=False)
    z = rows / rows.norm(axis=1, keepdim=True)
    whole = simclr.nt_xent(z[:4], z[4:], 0.5)[0]
    whole.backward()
    assert loss == pytest.approx(whole.item(), rel=1e-14)
    np.testing.assert_allclose(gradient, rows.grad.numpy(), atol=1e-14)
    assert wrong_loss == pytest.approx(loss, rel=1e-14)
    assert np.abs(wrong_gradient - gradient).max() > 0.1 * np.abs(gradient).max()
