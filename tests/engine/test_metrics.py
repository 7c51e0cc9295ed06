import numpy as np
import paddle
import pytest

from passl.engine.metrics import label_ranks


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


def test_not_a_number_is_never_right():
    logits = paddle.to_tensor([[float("nan")] * 4, [1.0, float("nan"), 0.0, 0.0]])
    assert label_ranks(logits, paddle.to_tensor([0, 1])).numpy().tolist() == [4, 4]
