"""ResMLP and gMLP with timm's random parameters: what timm answers, and its gradients."""

import math

import numpy as np
import pytest
from comparing import TOLERANCE, answers, check_answers, check_input_gradient, difference
from helpers import ROOT

import passl
from passl.modeling.architectures.classifier import Network
from passl.weights import load_weights

GOLDEN = ROOT / "tests" / "golden"

# tests/reference/make_golden_networks.py
SIZES = {
    "img_size": [24, 40],
    "patch_size": 8,
    "embed_dim": 20,
    "num_blocks": 3,
    "channels_mlp_dim": 48,
}
# file, network, publisher, tensors
FILES = [
    ("resmlp.safetensors", "ResMlp", "timm", 42),
    ("resmlp.facebook.pth", "ResMlp", "facebook", 42),
    ("gmlp.safetensors", "Gmlp", "timm", 36),
]
# The square matrices across tokens, for which a forgotten transposition would raise nothing.
SQUARE = {"ResMlp": "linear_tokens", "Gmlp": "gate.proj"}


def golden_network(file, name, publisher, tensors):
    network = Network({"name": name, **SIZES}, {"name": "ClassificationHead", "num_classes": 7})
    report = load_weights(network, GOLDEN / file)
    assert report.publisher == publisher and len(report.loaded) == tensors
    assert not report.kept and not report.left_out
    network.eval()
    return network


def golden_answers(file):
    """Returns the pixels, the outputs of the blocks and the logits, and what else there is."""
    with np.load(GOLDEN / f"{file.partition('.')[0]}.answers.npz") as arrays:
        found = dict(arrays)
    rest = {name: found.pop(name) for name in ("direction", "gradient")}
    pixels = found.pop("pixels")
    assert len(found) == 4 and pixels.shape == (2, 3, 24, 40)
    return pixels, found, rest


# Seen with Paddle 3.3.1: logits within 1.7e-7, blocks within 4.3e-7, gradients within 2.1e-7.
@pytest.mark.smoke
@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry[0])
def test_the_file_gives_its_makers_answers_and_gradients(entry):
    network = golden_network(*entry)
    pixels, theirs, rest = golden_answers(entry[0])
    check_answers(answers(network, pixels), theirs, entry[0])
    check_input_gradient(network, pixels, rest, entry[0])


@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry[0])
def test_no_parameter_could_be_wrong_unnoticed(entry):
    network = golden_network(*entry)
    pixels, theirs, _ = golden_answers(entry[0])
    for name, parameter in network.named_parameters():
        right = parameter.numpy()
        parameter.set_value(right.reshape(-1)[::-1].reshape(right.shape).copy())
        ours = answers(network, pixels)
        wrong = max(difference(ours[output], array) for output, array in theirs.items())
        assert wrong > 10 * TOLERANCE, name
        parameter.set_value(right)
    check_answers(answers(network, pixels), theirs, entry[0])


@pytest.mark.smoke
@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry[0])
def test_a_square_matrix_that_was_not_transposed_would_be_noticed(entry):
    network = golden_network(*entry)
    pixels, theirs, _ = golden_answers(entry[0])
    square = {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.ndim == 2 and parameter.shape[0] == parameter.shape[1]
    }
    assert len(square) == 3
    for name, parameter in square.items():
        assert f".{SQUARE[entry[1]]}." in name
        right = parameter.numpy()
        parameter.set_value(right.T.copy())
        assert difference(answers(network, pixels)["logits"], theirs["logits"]) > 20 * TOLERANCE
        parameter.set_value(right)


@pytest.mark.smoke
def test_the_epsilons_of_gmlps_norms_are_told_apart():
    """timm: 1e-6, but 1e-5 in the gates."""
    for pick, epsilon in (
        (lambda block: block.norm, 1e-5),
        (lambda block: block.mlp_channels.gate.norm, 1e-6),
    ):
        network = golden_network(*FILES[-1])
        pixels, theirs, _ = golden_answers(FILES[-1][0])
        for block in network.backbone.blocks:
            norm = pick(block)
            norm._epsilon = epsilon
        assert difference(answers(network, pixels)["logits"], theirs["logits"]) > TOLERANCE


# Seen with torch 2.13.0, timm 1.0.31 and Paddle 3.3.1: ResMLP's logits within 4.6e-7, blocks within
# 7.2e-7, gradients within 1.1e-6; gMLP's within 5.1e-7, 1.2e-6 and 1.4e-6. The big one takes 3 min.
@pytest.mark.reference
@pytest.mark.parametrize("name", [
    "resmlp_12_224", "resmlp_24_224", "resmlp_36_224", "resmlp_big_24_224",
    "gmlp_ti16_224", "gmlp_s16_224", "gmlp_b16_224",
])  # fmt: skip
def test_the_full_network_answers_as_timms_does(reference, photographs, tmp_path, name):
    reference("timm_networks.py", name, tmp_path, "--photographs", photographs[10], photographs[15])
    with np.load(tmp_path / "answers.npz") as arrays:
        theirs = dict(arrays)
    pixels, parameters = theirs.pop("pixels"), theirs.pop("parameters")
    rest = {key: theirs.pop(key) for key in ("direction", "gradient")}
    assert pixels.shape == (2, 3, 224, 224) and theirs["logits"].shape == (2, 1000)
    for file in sorted(set(tmp_path.iterdir()) - {tmp_path / "answers.npz"}):
        network = passl.create_model(name, pretrained=file)
        network.eval()
        assert sum(math.prod(p.shape) for p in network.parameters()) == parameters
        check_answers(answers(network, pixels), theirs, f"{name} {file.name}")
        check_input_gradient(network, pixels, rest, f"{name} {file.name}")
