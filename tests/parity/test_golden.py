"""Weight files that others' code wrote, and what that code answers: tests/golden/.

tests/reference/make_golden.py made them, and says with which versions.
"""

import numpy as np
import pytest
from comparing import TOLERANCE, answers, check_answers, difference
from helpers import ROOT

from passl.modeling.architectures.classifier import Network
from passl.weights import load_weights

GOLDEN = ROOT / "tests" / "golden"

FILES = [
    ("timm.safetensors", "safetensors", "timm"),
    ("timm.pth", "torch", "timm"),
    ("timm.legacy.pth", "torch", "timm"),
    ("timm.bin", "torch", "timm"),
    ("mmpretrain.legacy.pth", "torch", "mmpretrain"),
    ("google.npz", "npz", "google"),
]


def golden_network(name, gelu_approximate=None):
    if gelu_approximate is None:
        # Flax's nn.gelu, which Google's code calls, is the tanh form.
        gelu_approximate = name.startswith("google")
    architecture = {
        "name": "MlpMixer",
        "img_size": [12, 8],
        "patch_size": [4, 2],
        "embed_dim": 16,
        "num_blocks": 3,
        "tokens_mlp_dim": 10,
        "channels_mlp_dim": 40,
        "gelu_approximate": gelu_approximate,
    }
    network = Network(architecture, {"name": "ClassificationHead", "num_classes": 7})
    report = load_weights(network, GOLDEN / name)
    assert len(report.loaded) == 42 and not report.kept and not report.left_out
    network.eval()
    return network, report


def golden_answers(maker):
    with np.load(GOLDEN / "answers.npz") as arrays:
        pixels = arrays["pixels"]
        found = {n.split("/")[1]: arrays[n] for n in arrays if n.startswith(maker + "/")}
    assert len(found) == 4
    return pixels, found


# Seen with Paddle 3.3.1 and 2.6.2: logits within 2.3e-7, blocks within 2.5e-7.
@pytest.mark.smoke
@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("name, file_format, publisher", FILES)
def test_the_file_gives_its_makers_answers(name, file_format, publisher):
    network, report = golden_network(name)
    assert (report.format, report.publisher) == (file_format, publisher)
    pixels, theirs = golden_answers("google" if publisher == "google" else "timm")
    check_answers(answers(network, pixels), theirs, name)


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["timm.safetensors", "google.npz"])
def test_no_parameter_could_be_wrong_unnoticed(name):
    network, _ = golden_network(name)
    pixels, theirs = golden_answers(name.split(".")[0])
    for parameter_name, parameter in network.named_parameters():
        right = parameter.numpy()
        # Everything but its own order is right.
        parameter.set_value(right.reshape(-1)[::-1].reshape(right.shape).copy())
        ours = answers(network, pixels)
        wrong = max(difference(ours[output], array) for output, array in theirs.items())
        assert wrong > 20 * TOLERANCE, parameter_name
        # The bias at the end of the token MLP adds the same to all channels of a token, which the
        # norms take away again: the logits do not depend on it, and the blocks' outputs do.
        wrong = difference(ours["logits"], theirs["logits"])
        assert (wrong > TOLERANCE) != parameter_name.endswith("mlp_tokens.fc2.bias")
        parameter.set_value(right)
    check_answers(answers(network, pixels), theirs, name)


@pytest.mark.smoke
def test_the_two_forms_of_gelu_are_told_apart():
    for name, other in (("google.npz", False), ("timm.safetensors", True)):
        network, _ = golden_network(name, gelu_approximate=other)
        pixels, theirs = golden_answers(name.split(".")[0])
        assert difference(answers(network, pixels)["logits"], theirs["logits"]) > TOLERANCE
