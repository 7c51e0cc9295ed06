import numpy as np
import paddle
import pytest

from passl.evaluation.metrics import NO_ANSWER, answered, label_ranks, probabilities


@pytest.mark.smoke
def test_ranks_agree_with_a_stable_sort():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (200, 7)).astype("float32")  # many ties
    label = rng.integers(0, 7, 200)
    order = np.argsort(-logits, axis=1, kind="stable")
    expected = [list(row).index(answer) for row, answer in zip(order, label)]
    ranks = label_ranks(paddle.to_tensor(logits), paddle.to_tensor(label))
    assert ranks.numpy().tolist() == expected


def test_an_undecided_network_is_right_about_class_0_alone():
    ranks = label_ranks(paddle.zeros([3, 3]), paddle.to_tensor([0, 1, 2]))
    assert ranks.numpy().tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_finite_is_never_right(dtype):
    nan, inf = float("nan"), float("inf")
    rows = [[nan] * 3, [1.0, nan, 0.0], [inf, 0.0, 0.0], [-inf] * 3, [-inf, 2.0, 1.0], [1e4, 0, 0]]
    logits = paddle.to_tensor(rows, dtype)
    ranks = label_ranks(logits, paddle.to_tensor([0] * 4 + [1, 1])).numpy().tolist()
    assert ranks == [NO_ANSWER] * 4 + [0, 1]  # not in the top five of three classes either
    assert answered(probabilities(logits)).tolist() == [False] * 4 + [True] * 2
