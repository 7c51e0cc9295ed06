"""Losses and momenta of the self-supervised methods against published formulas' numbers.

The numbers were computed in float64 by NumPy, and agree to 1e-15 with lightly 1.6.0 (NT-Xent,
negative cosine similarity) and torch's cross-entropy over MoCo's logits. They are of
``sin(1 + 7i + 3j)`` and its like below.
"""

import math
from decimal import Decimal

import numpy as np
import paddle
import pytest

from passl.modeling.architectures.byol import squared_distance
from passl.modeling.architectures.moco import info_nce
from passl.modeling.architectures.simclr import nt_xent
from passl.modeling.layers.embeddings import effective_rank, spread, unit
from passl.modeling.layers.momentum_twin import cosine_momentum

ROWS, COLUMNS = np.mgrid[:4, :5]
A = np.sin(1 + 7 * ROWS + 3 * COLUMNS)
B = np.cos(2 + 5 * ROWS + 2 * COLUMNS)
C = np.cos(4 + 3 * ROWS + 7 * COLUMNS)
D = np.sin(6 + 11 * ROWS + COLUMNS)
M, N = np.mgrid[:5, :8]
QUEUE = np.sin(3 + 2 * M + 5 * N)


def units(array, dtype="float64"):
    return unit(paddle.to_tensor(array.astype(dtype)))


@pytest.mark.smoke
@pytest.mark.parametrize("T, expected", [(0.1, 5.904619271141766), (0.5, 2.287717002741673)])
def test_nt_xent(T, expected):
    assert nt_xent(units(A), units(B), T)[0].item() == pytest.approx(expected, rel=1e-12)
    assert nt_xent(units(B), units(A), T)[0].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.smoke
@pytest.mark.parametrize("T, expected", [(0.07, 3.184601858978265), (0.2, 2.112781174179068)])
def test_info_nce(T, expected):
    negatives = units(QUEUE.T)
    assert info_nce(units(A), units(B), negatives, T)[0].item() == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.smoke
def test_squared_distance():
    both = squared_distance(units(A), units(B)) + squared_distance(units(C), units(D))
    assert both.item() == pytest.approx(3.631105989998664, rel=1e-12)


@pytest.mark.parametrize(
    "step, expected",
    [(0, 0.996), (250, 0.9965857864376269), (500, 0.998), (999, 0.9999999901304037)],
)
def test_the_momentum_of_a_step(step, expected):
    assert cosine_momentum(0.996, step, 1000) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("count", [8, 128])
def test_a_network_that_knows_nothing(count):
    """All similarities are equal: log(2N - 1), 5.54 of 128 images, and log(1 + K)."""
    same = paddle.ones([count, 4], "float64") / 2
    loss, right = nt_xent(same, same, 0.5)
    assert loss.item() == pytest.approx(math.log(2 * count - 1), rel=1e-12)
    loss, right = info_nce(same, same, paddle.ones([4096, 4], "float64") / 2, 0.2)
    assert loss.item() == pytest.approx(math.log(4097), rel=1e-12) and right.item() == 0


@pytest.mark.parametrize("T", [0.01, 0.001])
def test_a_low_temperature_overflows_nothing(T):
    """Against sums of powers of e in 60 digits."""
    z = np.concatenate([units(A).numpy(), units(B).numpy()])
    similarity = z @ z.T / T
    total = Decimal(0)
    for row in range(8):
        others = [Decimal(s).exp() for i, s in enumerate(similarity[row]) if i != row]
        total += sum(others).ln() - Decimal(similarity[row][(row + 4) % 8])
    queue = units(QUEUE.T).numpy()
    expected = float(total / 8)
    assert nt_xent(units(A), units(B), T)[0].item() == pytest.approx(expected, rel=1e-10)
    loss, _ = nt_xent(units(A, "float32"), units(B, "float32"), T)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    total = Decimal(0)
    for q, k in zip(z[:4], z[4:]):
        total += sum((Decimal(x) / Decimal(T)).exp() for x in [q @ k, *(queue @ q)]).ln()
        total -= Decimal(q @ k) / Decimal(T)
    loss, _ = info_nce(units(A), units(B), units(QUEUE.T), T)
    assert loss.item() == pytest.approx(float(total / 4), rel=1e-10)


@pytest.mark.parametrize("d", [128, 256])
def test_spread_of_even_and_of_collapsed_embeddings(d):
    """1 / √d for each coordinate where they are even: 0.0884 of 128, 0.0625 of 256."""
    vectors = np.random.default_rng(0).normal(size=(4000, d))
    found = spread(units(vectors)).item()
    assert found == pytest.approx(1.0, abs=5e-3)
    assert found / math.sqrt(d) == pytest.approx({128: 0.0884, 256: 0.0625}[d], rel=5e-3)
    assert spread(units(np.ones((10, d)))).item() == pytest.approx(0, abs=1e-7)
    reference = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).std(0).mean()
    assert found == pytest.approx(reference * math.sqrt(d), rel=1e-12)


def test_effective_rank():
    """Of vectors along k axes alike it is k; else by NumPy's own singular values."""
    for k in (1, 3, 7):
        axes = paddle.to_tensor(np.tile(np.eye(7)[:k], (5, 1)))
        assert effective_rank(axes) == pytest.approx(k)
    vectors = np.random.default_rng(0).normal(size=(50, 9)) * np.arange(1, 10)
    singular = np.linalg.svd(vectors, compute_uv=False)
    shares = singular / singular.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(paddle.to_tensor(vectors)) == pytest.approx(expected, rel=1e-10)
    assert effective_rank(paddle.zeros([4, 3])) == 1


def test_the_share_of_right_answers():
    """Of four images two have views that find each other, by a NumPy count."""
    one, two = np.eye(4), np.eye(4)[[0, 1, 3, 2]]
    one[0] += 0.1
    _, right = nt_xent(units(one), units(two), 0.5)
    assert right.item() == 0.5
    _, right = info_nce(units(one), units(two), units(np.eye(4)[:1]), 0.5)
    assert right.item() == 0.25  # the first one's own view lies in the queue as well: no nearer
