"""CvT-13 with numbers that follow from their names: what the authors' code answers.

microsoft/CvT's lib/models/cls_cvt.py in float64.
"""

import math
import os

import numpy as np
import paddle
import pytest
from comparing import difference
from golden_numbers import check_summary, golden_network, loss_and_gradients, scaled
from paddle import nn

import passl
from passl.weights import load_weights

SMALL = "backbone.stages.0.patch_embed.proj.bias"
PLAIN = (0.117583, -1.572999, 0.000579, 2.024437, -0.184236, 1954.4563)
SMALL_TOKENS = (-0.171814, -1.809831, -0.209432, 2.349647, -0.264150, 1941.4323)
LOSS = 6.618631
NORMS = {
    "backbone.stages.0.patch_embed.proj.weight": 3.58334,
    "backbone.stages.0.blocks.0.conv_q.conv.weight": 0.419051,
    "backbone.stages.0.blocks.0.conv_k.norm.weight": 0.199555,
    "backbone.stages.2.cls_token": 0.254783,
}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return golden_network("cvt_13", "microsoft", tmp_path_factory.mktemp("cvt"))


@pytest.mark.smoke
@pytest.mark.usefixtures("each_way")
def test_the_logits_are_the_authors(network):
    check_summary(network, PLAIN)


@pytest.mark.usefixtures("each_way")
def test_loss_and_gradients_are_the_authors(network):
    loss, norms = loss_and_gradients(network)
    assert loss == pytest.approx(LOSS, rel=1e-6)
    assert norms.keys() == {name for name, _ in network.named_parameters()}
    for name, norm in NORMS.items():
        assert norms[name] == pytest.approx(norm, rel=1e-4), name


@pytest.mark.smoke
def test_small_tokens_tell_the_epsilon(network):
    """With an epsilon of 1e-6 the logits would be off by 0.74."""
    parameter = dict(network.named_parameters())[SMALL]
    right = parameter.numpy()
    scaled(network, [SMALL])
    check_summary(network, SMALL_TOKENS, times=0.002)
    parameter.set_value(right)


# Seen with torch 2.13.0 and Paddle 3.3.1: logits and stages within 1.2e-6, gradients within 1.4e-6.
@pytest.mark.reference
def test_the_network_answers_as_the_authors_does(reference, tmp_path):
    folder = os.environ.get("PASSL_AUTHORS_CODE")
    if not folder:
        pytest.skip(
            "compares with the authors' code as it runs: PASSL_AUTHORS_CODE is a folder with a "
            "checkout of it (tests/reference/cvt.py says which)"
        )
    sizes = ("224x224", "96x160")
    reference("cvt.py", "cvt_13", tmp_path, "--checkouts", folder, "--sizes", *sizes)
    with np.load(tmp_path / "answers.npz") as arrays:
        theirs = dict(arrays)
    network = passl.create_model("cvt_13", num_classes=1000)
    report = load_weights(network, tmp_path / "weights.pth")
    assert report.publisher == "microsoft" and not report.kept
    assert all(name.endswith("num_batches_tracked") for name in report.left_out)
    network.eval()
    assert sum(math.prod(p.shape) for p in network.parameters()) == theirs["parameters"]
    for size in sizes:
        image = paddle.to_tensor(theirs[f"{size}_pixels"], stop_gradient=False)
        labels = paddle.to_tensor(theirs[f"{size}_labels"])
        logits = network(image)
        nn.functional.cross_entropy(logits, labels).backward()
        with paddle.no_grad():
            stages = network.backbone.forward_stages(image)
        ours = {"logits": logits.detach(), "gradient": image.grad}
        ours.update({f"stage_{i}": stage for i, stage in enumerate(stages)})
        found = {
            name: difference(value.numpy(), theirs[f"{size}_{name}"])
            for name, value in ours.items()
        }
        print(size, {name: f"{value:.1e}" for name, value in found.items()})
        assert found.pop("gradient") < 1e-4
        assert max(found.values()) < 1e-5, found
