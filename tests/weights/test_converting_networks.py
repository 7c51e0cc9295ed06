"""Conversion among several families, and of parameters that are no layer's weight or bias."""

import numpy as np
import pytest
from helpers import ROOT

from passl.cli import convert as convert_command
from passl.modeling.architectures.classifier import Network
from passl.modeling.backbones import BACKBONES
from passl.utils.stored_array import StoredArray
from passl.weights import WeightFile
from passl.weights.formats import safetensors
from passl.weights.naming import Naming, namings

GOLDEN = ROOT / "tests" / "golden"


def contents(path):
    with WeightFile(path) as file:
        return file.read_group(file.key)


def convert(source, target, publisher):
    assert convert_command.main([str(source), str(target), "--to", publisher]) == 0
    return contents(target)


def assert_same(one, other):
    assert set(one) == set(other)
    for name, array in one.items():
        assert array.shape == other[name].shape, name
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.smoke
def test_resmlp_in_the_names_and_axes_of_each(tmp_path):
    timm, authors = GOLDEN / "resmlp.safetensors", GOLDEN / "resmlp.facebook.pth"
    assert_same(convert(timm, tmp_path / "a.pth", "facebook"), contents(authors))
    assert_same(convert(authors, tmp_path / "b.pth", "timm"), contents(timm))
    own = convert(timm, tmp_path / "c.safetensors", "passl")
    assert own["backbone.blocks.2.norm1.alpha"].shape == (20,)
    assert_same(own, convert(authors, tmp_path / "d.safetensors", "passl"))
    assert_same(convert(tmp_path / "c.safetensors", tmp_path / "e.bin", "timm"), contents(timm))


SMALL = {
    "MlpMixer": {"tokens_mlp_dim": 5, "channels_mlp_dim": 6},
    "ResMlp": {"channels_mlp_dim": 6},
    "Gmlp": {"channels_mlp_dim": 6},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_file_of_ours_is_of_the_family_that_knows_all_of_it(name, tmp_path):
    """The stem and the head are called the same in all of them."""
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 4, "num_blocks": 1}
    architecture = {"name": name, **sizes, **SMALL[name]}
    network = Network(architecture, {"name": "ClassificationHead", "num_classes": 3})
    arrays = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    source = tmp_path / "own.safetensors"
    safetensors.write_tensor_file(source, arrays, {"kind": "weights"})
    theirs = convert(source, tmp_path / "theirs.pth", "timm")
    assert len(theirs) == len(arrays)
    tables = BACKBONES.attribute(name, "released_names", {})
    back = convert(tmp_path / "theirs.pth", tmp_path / "back.safetensors", "passl")
    assert "timm" in tables and set(back) == set(arrays)


@pytest.mark.parametrize("publisher, suffix", [("google", ".npz"), ("timm", ".pth")])
def test_a_vit_of_ours_is_no_tower_of_clip(publisher, suffix, tmp_path):
    """Whose ViT has the same names here, and others elsewhere; and the other way round."""
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 192, "num_blocks": 1, "num_heads": 3}
    network = Network(
        {"name": "VisionTransformer", **sizes}, {"name": "ClassificationHead", "num_classes": 3}
    )
    arrays = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    source, theirs = tmp_path / "own.safetensors", tmp_path / f"theirs{suffix}"
    safetensors.write_tensor_file(source, arrays, {"kind": "weights"})
    tables = namings(BACKBONES.attribute("VisionTransformer", "released_names", {}))
    expected = {}
    for name, array in arrays.items():
        kept = StoredArray(array.shape, array.dtype, lambda array=array: array)
        expected.update(tables[publisher].write(name, kept))
    found = convert(source, theirs, publisher)
    assert set(found) == set(expected)
    assert_same(convert(theirs, tmp_path / "back.safetensors", "passl"), arrays)
    backbone = {name: array for name, array in arrays.items() if name.startswith("backbone.")}
    safetensors.write_tensor_file(source, backbone, {"kind": "weights"})
    assert any(name.startswith("visual.") for name in convert(source, tmp_path / "x.pt", "openai"))


def test_what_google_has_no_room_for_is_said_of_the_right_network(tmp_path, capsys):
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 4, "num_blocks": 1, "num_heads": 2}
    network = Network(
        {"name": "VisionTransformer", **sizes}, {"name": "ClassificationHead", "num_classes": 3}
    )
    arrays = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    source = tmp_path / "own.safetensors"
    safetensors.write_tensor_file(source, arrays, {"kind": "weights"})
    assert convert_command.main([str(source), str(tmp_path / "theirs.npz")]) == 2
    assert "how many heads a network of 4 channels has" in capsys.readouterr().err


def stored(shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return StoredArray(shape, array.dtype, lambda: array)


def test_brackets_name_a_parameter_and_its_axes():
    naming = Naming("x", "torch", {"a.{i}.scale[:]": "b.{i}.gamma[1, 1, :]", "a.fc": "b.fc"})
    assert naming.to_here("b.7.gamma") == "a.7.scale" and naming.to_there("a.7.scale", 1) == (
        "b.7.gamma"
    )
    assert naming.to_here("b.7.gamma.weight") is None and naming.to_here("b.fc") is None
    assert naming.read("b.7.gamma", stored([1, 1, 5]), "torch").shape == (5,)
    (there,) = naming.write("a.7.scale", stored([5])).values()
    assert there.shape == (1, 1, 5)
    np.testing.assert_array_equal(there.read(), np.arange(5).reshape(1, 1, 5))
    # What does not fit is left as it is, for the comparison of shapes to refuse.
    assert naming.read("b.7.gamma", stored([1, 2, 5]), "torch").shape == (1, 2, 5)
    assert naming.read("b.fc.weight", stored([1, 5]), "torch").shape == (5, 1)
    assert naming.write("a.9", stored([5])) is None
