"""Networks whose authors alone have released code: logits, gradients and stages are theirs.

tests/golden/ has reduced ones (tests/reference/make_golden_stages.py made them, and says with which
versions); full-size ones are compared where the authors' code is at hand.
"""

import dataclasses
import math
import os

import numpy as np
import paddle
import pytest
from comparing import TOLERANCE, difference
from helpers import ROOT

import passl
from passl.modeling.architectures.classifier import Network
from passl.modeling.backbones import BACKBONES
from passl.weights import WeightFile, load_weights
from passl.weights.converting import convert_weights

GOLDEN = ROOT / "tests" / "golden"
GRADIENT_TOLERANCE = 1e-3


@dataclasses.dataclass
class Family:
    """A reduced network, as make_golden_stages.py has it; ``full`` is compared live."""

    architecture: dict
    full: str
    left_out: tuple = ()
    has_stages: bool = True
    # Arrays that the logits cannot depend on.
    without_effect: tuple = ()


FAMILIES = {
    "cyclemlp": Family(
        {
            "name": "CycleMlp",
            "depths": [1, 2, 1, 1],
            "embed_dims": [8, 12, 16, 20],
            "mlp_ratios": [3, 2, 2, 2],
        },
        "cyclemlp_b1",
        left_out=("attn.sfc_h.offset", "attn.sfc_w.offset"),
    ),
    "vip": Family(
        {
            "name": "VisionPermutator",
            "img_size": 56,
            "depths": [1, 1, 2],
            "embed_dims": [16, 24, 20],
            "halved": [False, True],
        },
        "vip_s7",
        has_stages=False,
    ),
    "convmlp": Family(
        {
            "name": "ConvMlp",
            "stem_channels": 8,
            "conv_depth": 2,
            "embed_dims": [12, 16, 20],
            "depths": [1, 2, 1],
            "mlp_ratios": [1, 3, 2],
        },
        "convmlp_s",
        left_out=("num_batches_tracked",),
    ),
}


def answers(network, pixels, labels):
    """Returns the logits, and the gradient of the mean cross-entropy by the pixels."""
    image = paddle.to_tensor(pixels, stop_gradient=False)
    logits = network(image)
    paddle.nn.functional.cross_entropy(logits, paddle.to_tensor(labels)).backward()
    return logits.detach().numpy(), image.grad.numpy()


def golden(name):
    with np.load(GOLDEN / f"{name}_answers.npz") as arrays:
        found = dict(arrays)
    pixels = found.pop("pixels").transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    network = Network(FAMILIES[name].architecture, {"name": "ClassificationHead", "num_classes": 7})
    report = load_weights(network, GOLDEN / f"{name}.pth")
    assert report.publisher == "authors" and not report.kept
    assert all(array.endswith(FAMILIES[name].left_out) for array in report.left_out)
    network.eval()
    return network, pixels, found


# Seen with Paddle 3.3.1: logits and gradient within 1.2e-7 and 7.3e-7 (CycleMLP),
# 1.1e-7 and 9.3e-7 (ViP), 3.2e-7 and 6.0e-7 (ConvMLP); with 2.6.2 the same.
@pytest.mark.smoke
@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_file_gives_its_makers_answers(name):
    network, pixels, theirs = golden(name)
    logits, gradient = answers(network, pixels, theirs["labels"])
    found = {
        "logits": difference(logits, theirs["logits"]),
        "gradient": difference(gradient, theirs["gradient"]),
    }
    print(name, {key: f"{value:.1e}" for key, value in found.items()})
    assert found["logits"] < TOLERANCE and found["gradient"] < GRADIENT_TOLERANCE, found


@pytest.mark.smoke
@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].has_stages])
def test_the_stages_are_their_makers(name):
    network, pixels, theirs = golden(name)
    with paddle.no_grad():
        stages = network.backbone.forward_stages(paddle.to_tensor(pixels))
    assert len(stages) == sum(key.startswith("stage_") for key in theirs)
    for i, stage in enumerate(stages):
        expected = theirs[f"stage_{i}"].transpose(0, 3, 1, 2)
        assert difference(stage.numpy(), expected) < TOLERANCE, i


@pytest.mark.smoke
@pytest.mark.parametrize("name", FAMILIES)
def test_no_parameter_could_be_wrong_unnoticed(name):
    """Square matrices are transposed, for their shape says nothing; the rest is turned around."""
    network, pixels, theirs = golden(name)
    image, squares = paddle.to_tensor(pixels), 0
    tensors = {n: t for n, t in network.state_dict().items() if t.size > 1}
    for tensor_name, tensor in tensors.items():
        right = tensor.numpy()
        kernel = right.ndim == 2 or (right.ndim == 4 and right.shape[2:] == (1, 1))
        if kernel and right.shape[0] == right.shape[1]:
            wrong, squares = np.swapaxes(right, 0, 1), squares + 1
        else:
            wrong = right.reshape(-1)[::-1].reshape(right.shape)
        tensor.set_value(wrong.copy())
        with paddle.no_grad():
            logits = network(image).numpy()
        unnoticed = difference(logits, theirs["logits"]) <= 2 * TOLERANCE
        assert unnoticed == tensor_name.endswith(FAMILIES[name].without_effect or "-"), tensor_name
        tensor.set_value(right)
    assert squares >= 3


@pytest.mark.smoke
@pytest.mark.parametrize("name", FAMILIES)
def test_files_are_told_apart_and_converted(name, tmp_path):
    """Families share names; there and back again every weight is as it was."""
    families = {each: BACKBONES.attribute(each, "released_names", {}) for each in BACKBONES.names()}
    file = GOLDEN / f"{name}.pth"
    done = convert_weights(file, tmp_path / "own.safetensors", families)
    assert done.source == "authors"
    convert_weights(tmp_path / "own.safetensors", tmp_path / "back.pth", families, "authors")
    with WeightFile(file) as theirs, WeightFile(tmp_path / "back.pth") as back:
        lost = set(theirs.tensors) - set(back.tensors)
        assert not set(back.tensors) - set(theirs.tensors)
        assert all(array.endswith(FAMILIES[name].left_out) for array in lost)
        for array, tensor in back.tensors.items():
            np.testing.assert_array_equal(tensor.read(), theirs.tensors[array].read())


@pytest.fixture(scope="module")
def checkouts():
    folder = os.environ.get("PASSL_AUTHORS_CODE")
    if not folder:
        pytest.skip(
            "compares with the authors' code as it runs: PASSL_AUTHORS_CODE is a folder with "
            "checkouts of it (tests/reference/authors.py says which)"
        )
    return folder


# Seen with torch 2.13.0 and Paddle 3.3.1: logits and gradient within 8.9e-7 and 1.8e-6
# (CycleMLP-B1), 3.9e-7 and 1.8e-6 (ViP-Small/7), 3.9e-7 and 1.7e-6 (ConvMLP-S).
@pytest.mark.reference
@pytest.mark.parametrize("name", FAMILIES)
def test_the_network_answers_as_the_authors_does(reference, checkouts, photographs, tmp_path, name):
    full = FAMILIES[name].full
    reference(
        "authors_network.py", full, tmp_path, "--checkouts", checkouts,
        "--photographs", photographs[10], photographs[15],
    )  # fmt: skip
    with np.load(tmp_path / "answers.npz") as arrays:
        theirs = dict(arrays)
    network = passl.create_model(full, pretrained=tmp_path / "weights.pth")
    network.eval()
    assert sum(math.prod(p.shape) for p in network.parameters()) == theirs["parameters"]
    logits, gradient = answers(network, theirs["pixels"], theirs["labels"])
    found = {
        "logits": difference(logits, theirs["logits"]),
        "gradient": difference(gradient, theirs["gradient"]),
    }
    print(full, {key: f"{value:.1e}" for key, value in found.items()})
    assert found["logits"] < TOLERANCE and found["gradient"] < GRADIENT_TOLERANCE, found
