"""What a classifier tells of its training: the share of right answers."""

import numpy as np
import paddle
import pytest
from helpers import NETWORK

from passl.datasets import BATCH_TRANSFORMS
from passl.modeling.architectures import build_architecture
from passl.modeling.architectures.classifier import Classifier

LOGITS = np.array([[3, 1, 0], [0, 2, 1], [0, 1, 5], [4, 0, 1]], np.float32)  # 0, 1, 2, 0


@pytest.fixture
def network(monkeypatch):
    """A classifier in training whose logits are LOGITS."""
    paddle.seed(0)
    head = {"name": "ClassificationHead", "num_classes": 3}
    network = build_architecture({"architecture": {"name": "MlpMixer", **NETWORK}, "head": head})
    network.head.forward = lambda features: features.sum() * 0 + paddle.to_tensor(LOGITS)
    network.train()
    return network


def batch(labels, **fields):
    image = paddle.ones([len(labels), 3, 16, 16])
    fields = {name: paddle.to_tensor(value) for name, value in fields.items()}
    return {"image": image, "label": paddle.to_tensor(np.array(labels)), **fields}


@pytest.mark.parametrize(
    "labels, share", [([0, 1, 2, 0], 100.0), ([0, 1, 2, 1], 75.0), ([1, 0, 0, 1], 0.0)]
)
def test_it_is_the_share_of_the_largest_logits_in_percent(network, labels, share):
    scalars = network(batch(labels))["scalars"]
    assert list(scalars) == ["top1"] and scalars["top1"].shape == []
    assert scalars["top1"].item() == share and scalars["top1"].stop_gradient


def test_of_mixed_images_the_label_of_the_larger_share_counts(network):
    """Answers 0, 1, 2, 0; each of the four is right by one of its labels alone."""
    mixed = {
        "partner_label": np.array([1, 1, 0, 0]),
        "partner_weight": np.array([0.4, 0.6, 0.0, 0.3], np.float32),
    }
    assert network(batch([0, 0, 2, 1], **mixed))["scalars"]["top1"].item() == 75.0
    assert network(batch([1, 0, 0, 1], **mixed))["scalars"]["top1"].item() == 25.0


def test_with_mixup_it_is_what_counting_by_hand_gives(network):
    mixup = BATCH_TRANSFORMS.build({"name": "Mixup", "mixup_alpha": 0.5, "cutmix_alpha": 1.0,
                                    "mode": "element"})  # fmt: skip
    right = total = 0
    for seed in range(20):
        given = mixup(batch([0, 1, 2, 1]), np.random.default_rng(seed))
        share = given["partner_weight"].numpy()
        targets = np.zeros((4, 3))
        np.add.at(targets, (range(4), given["label"].numpy()), 1 - share)
        np.add.at(targets, (range(4), given["partner_label"].numpy()), share)
        wanted = 100 * (LOGITS.argmax(1) == targets.argmax(1)).mean()
        assert network(given)["scalars"]["top1"].item() == pytest.approx(wanted)
        right, total = right + wanted, total + 100
    assert 0 < right < total


def test_there_is_none_in_evaluation_nor_without_labels(network):
    unlabelled = {"image": batch([0, 1, 2, 0])["image"]}
    assert "scalars" not in network(unlabelled)
    network.eval()
    assert "scalars" not in network(batch([0, 1, 2, 0]))


def test_it_changes_neither_loss_nor_gradient(monkeypatch):
    rng = np.random.default_rng(0)
    given = batch([0, 1, 2, 1])
    given["image"] = paddle.to_tensor(rng.standard_normal((4, 3, 16, 16)).astype(np.float32))
    model = {
        "architecture": {"name": "MlpMixer", **NETWORK, "drop_rate": 0.1},
        "head": {"name": "ClassificationHead", "num_classes": 3, "init": "normal"},
    }

    def step():
        paddle.seed(0)
        network = build_architecture(model)
        network.train()
        paddle.seed(1)
        outputs = network(given)
        outputs["loss"].backward()
        gradients = [p.grad.numpy() for p in network.parameters() if p.grad is not None]
        return outputs, [outputs["loss"].numpy(), *gradients, paddle.rand([3]).numpy()]

    outputs, with_it = step()
    assert "top1" in outputs["scalars"]
    monkeypatch.setattr("passl.modeling.architectures.classifier._top1", lambda *a: None)
    for one, other in zip(with_it, step()[1]):
        np.testing.assert_array_equal(one, other)


def test_nobody_waits_for_it(network, monkeypatch):
    """What brings a number to the host is not called in a forward pass."""
    given = batch([0, 1, 2, 0])
    network.head.loss = lambda outputs, batch: outputs["logits"].mean()  # Paddle 2's own waits

    def waits(*arguments):
        raise AssertionError("waits for the device")

    tensor = type(given["label"])
    for name in ("numpy", "item", "__bool__", "__float__", "__int__", "tolist"):
        monkeypatch.setattr(tensor, name, waits)
    Classifier.forward(network, given)
