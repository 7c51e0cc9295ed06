"""ResNets with numbers that follow from their names: what torchvision answers.

torchvision 0.28's models/resnet.py with torch 2.13 in float64: parameters and running statistics
by the rule of golden_numbers.py, under torchvision's own names, rounded to float32; two images.
"""

import math

import numpy as np
import paddle
import pytest
from comparing import difference
from golden_numbers import check_summary, golden_network, loss_and_gradients
from paddle import nn

import passl
from passl.weights import load_weights

LOGITS = {
    "resnet18": (-10.628808, -11.646308, -11.116027, 3.7920619, -9.4146074, 15231.645),
    "resnet50": (-21.842551, -18.11902, -9.6729134, -9.5737557, -7.9880341, 37542.942),
}
# ResNet-18 while it trains, normalised by the statistics of the two images.
TRAINING = (-0.70105854, -1.3742765, -0.27303584, 0.63189359, -0.46478945, 1646.4343)
LOSS = 7.29905157
NORMS = {
    "backbone.stem.conv.weight": 9.42558715,
    "backbone.stages.0.0.layers.1.norm.weight": 0.362150537,
    "backbone.stages.1.0.shortcut.conv.weight": 1.77349337,
    "backbone.stages.2.1.layers.1.conv.weight": 4.93629133,
    "backbone.stages.3.0.shortcut.norm.bias": 0.333170076,
    "head.fc.weight": 13.9041121,
}
# How large a running mean is after that: 0.9 of what it was, 0.1 of the images'.
MEANS = {
    "backbone.stem.norm._mean": 1.22809206,
    "backbone.stages.3.1.layers.1.norm._mean": 3.75505444,
}


@pytest.mark.smoke
@pytest.mark.usefixtures("each_way")
def test_the_logits_are_torchvisions(tmp_path):
    check_summary(golden_network("resnet18", "torchvision", tmp_path), LOGITS["resnet18"])


def test_those_of_bottlenecks_too(tmp_path):
    check_summary(golden_network("resnet50", "torchvision", tmp_path), LOGITS["resnet50"])


def test_in_training_loss_gradients_and_statistics_are_torchvisions(tmp_path):
    """In float64; in float32 batch norms of two images make 1e-4 of the processor's rounding."""
    network = golden_network("resnet18", "torchvision", tmp_path)
    network.train()
    loss, norms = loss_and_gradients(network, TRAINING)
    assert loss == pytest.approx(LOSS, rel=1e-5)
    for name, norm in NORMS.items():
        assert norms[name] == pytest.approx(norm, rel=1e-3), name
    network = golden_network("resnet18", "torchvision", tmp_path).to(dtype="float64")
    network.train()
    loss, norms = loss_and_gradients(network, TRAINING)
    assert loss == pytest.approx(LOSS, rel=1e-8)
    assert norms.keys() == {name for name, _ in network.named_parameters()}
    for name, norm in NORMS.items():
        assert norms[name] == pytest.approx(norm, rel=1e-7), name
    state = network.state_dict()
    for name, norm in MEANS.items():
        assert np.linalg.norm(state[name].numpy()) == pytest.approx(norm, rel=1e-5), name


# Seen with torch 2.13.0, torchvision 0.28.0, timm 1.0.31 and Paddle 3.3.1: in float64 within 3e-11,
# logits in float32 within 4.7e-7.
@pytest.mark.reference
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_network_answers_as_theirs_does(reference, tmp_path, library, name):
    sizes = ("224x224", "75x130")
    reference("resnets.py", library, name, tmp_path, "--sizes", *sizes)
    with np.load(tmp_path / "answers.npz") as arrays:
        theirs = dict(arrays)
    network = passl.create_model(name, num_classes=1000)
    report = load_weights(network, tmp_path / "weights.pth")
    assert report.publisher == "torchvision" and not report.kept  # timm has the same names
    assert all(left.endswith("num_batches_tracked") for left in report.left_out)
    network.eval()
    assert sum(math.prod(p.shape) for p in network.parameters()) == theirs["parameters"]
    pixels = {size: paddle.to_tensor(theirs[f"{size}_pixels"]) for size in sizes}
    with paddle.no_grad():
        plain = {size: network(image.astype("float32")) for size, image in pixels.items()}
    network = network.to(dtype="float64")
    for size, image in pixels.items():
        image.stop_gradient = False
        logits = network(image)
        nn.functional.cross_entropy(logits, paddle.to_tensor(theirs[f"{size}_labels"])).backward()
        with paddle.no_grad():
            stages = network.backbone.forward_stages(image)
        ours = {"logits": logits.detach(), "gradient": image.grad}
        ours.update({f"stage_{i}": stage for i, stage in enumerate(stages)})
        found = {
            key: difference(value.numpy(), theirs[f"{size}_{key}"]) for key, value in ours.items()
        }
        found["float32"] = difference(plain[size].numpy(), theirs[f"{size}_logits"])
        print(library, name, size, {key: f"{value:.1e}" for key, value in found.items()})
        assert found.pop("float32") < 1e-5
        assert max(found.values()) < 1e-8, found
