"""CLIP in two and four real processes: the run of one with all pairs, in one piece."""

import functools

import numpy as np
import paddle
import pytest
from clip import small_clip, small_pairs
from clip_processes import CASES, STEPS, train
from helpers import ROOT, running
from stepping import assert_close

from passl.distributed.processes import Processes
from passl.modeling.architectures import clip as architecture

PROGRAM = ROOT / "tests" / "distributed" / "clip_processes.py"


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return running(PROGRAM, tmp_path_factory)


@functools.lru_cache(None)
def alone(case, dtype):
    return train(case, dtype, Processes(), parts=1)


@pytest.mark.parametrize(
    "count", [pytest.param(2, marks=pytest.mark.smoke), pytest.param(4, marks=pytest.mark.full)]
)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", STEPS)
def test_processes_train_what_one_does(together, count, case, dtype):
    """1 × 16 is 2 × 8 is 4 × 4, also where each takes its part in two: gradients and all steps."""
    prefix = f"{case}/{dtype}/"
    found = {k[len(prefix) :]: a for k, a in together(count).items() if k.startswith(prefix)}
    assert_close(found, alone(case, dtype), dtype)


@pytest.mark.parametrize("dtype", STEPS)
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_train_what_the_whole_does(dtype, parts):
    """GradCache, in one process: the scale's gradient counts once."""
    assert_close(train("softmax", dtype, Processes(), parts), alone("softmax", dtype), dtype)


@pytest.mark.parametrize("case", ["softmax", "sigmoid"])
def test_every_weight_of_that_run_learns(case):
    """Else the comparison would say little."""
    before = small_clip("ViT", "float64", loss=CASES[case][0])
    after = alone(case, "float64")
    for key, parameter in before.named_parameters():
        assert np.abs(after[key] - parameter.numpy()).max() > 1e-6, key


def test_the_loss_of_chance_is_that_of_the_pairs_of_all(monkeypatch):
    network = small_clip("ViT", "float64")
    batch = small_pairs("ViT", 4, dtype="float64")
    monkeypatch.setattr(architecture, "process_count", lambda: 3)
    assert network(batch)["scalars"]["chance"].item() == pytest.approx(np.log(12))


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_gather_without_gradient_is_another_gradient(loss, monkeypatch):
    """The loss alone would not tell: it is right, and the gradient that leaves out is not."""
    rng = np.random.default_rng(0)
    everything = rng.normal(size=(2, 4, 5))
    scale, bias = paddle.to_tensor(3.0, "float64"), paddle.to_tensor(-2.0, "float64")

    def measured(images, texts):
        if loss == "softmax":
            return architecture.softmax_loss(images, texts, scale)[0]
        return architecture.sigmoid_loss(images, texts, scale, bias)[0]

    def gathering(with_gradient, processes=2):
        """Two processes in one: each has half of the pairs, and the other's are gathered."""
        rows = paddle.to_tensor(everything, stop_gradient=False)
        unit = rows / rows.norm(axis=2, keepdim=True)
        others, total, share = unit if with_gradient else unit.detach(), 0, 4 // processes
        for rank in range(processes):
            mine = slice(rank * share, (rank + 1) * share)
            monkeypatch.setattr(architecture, "process_rank", lambda rank=rank: rank)
            gathered = others[1] if loss == "sigmoid" else paddle.concat(list(others), axis=1)
            monkeypatch.setattr(
                architecture, "all_gather_with_gradient", lambda _, gathered=gathered: gathered
            )
            total = total + measured(unit[0][mine], unit[1][mine]) / processes
        total.backward()
        return total.item(), rows.grad.numpy()

    whole, expected = gathering(with_gradient=True, processes=1)
    found, gradient = gathering(with_gradient=True)
    wrong, wrong_gradient = gathering(with_gradient=False)
    assert found == pytest.approx(whole, rel=1e-14) and wrong == pytest.approx(whole, rel=1e-14)
    np.testing.assert_allclose(gradient, expected, atol=1e-14)
    assert np.abs(wrong_gradient - expected).max() > 0.1 * np.abs(expected).max()
