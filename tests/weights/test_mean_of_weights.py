"""Means of two weight files (WiSE-FT), of any publishers' names."""

import ml_dtypes
import numpy as np
import pytest
from clip import clip, open_clip_state

from passl.cli import convert as convert_command
from passl.modeling.backbones.clip_vit import CLIPVisionTransformer
from passl.utils.errors import PasslError
from passl.weights import WeightFile
from passl.weights.converting import convert_weights
from passl.weights.formats import safetensors, torch

FAMILIES = {"CLIP": CLIPVisionTransformer.released_names}


def arrays(seed, factor=1.0):
    return {name: factor * array for name, array in open_clip_state(clip("ViT", seed=seed)).items()}


def contents(path):
    with WeightFile(path) as file:
        return file.read_group(file.key)


@pytest.mark.parametrize("share", [0.5, 0.25, 0.0, 1.0])
def test_a_mean_is_that_of_each_number(tmp_path, share):
    one, two = arrays(0), arrays(1)
    torch.write(str(tmp_path / "one.pt"), one)
    safetensors.write(str(tmp_path / "two.safetensors"), two, {"format": "pt"})
    files = [tmp_path / name for name in ("one.pt", "mean.pt", "two.safetensors")]
    convert_weights(*files[:2], FAMILIES, "openai", other=files[2], share=share)
    found = contents(files[1])
    assert set(found) == set(one)
    for name, array in found.items():
        expected = (1 - share) * one[name].astype("f8") + share * two[name].astype("f8")
        np.testing.assert_array_equal(array, expected.astype("f4"), name)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bits_stay(tmp_path, dtype):
    one = {name: array.astype(dtype) for name, array in arrays(0).items()}
    safetensors.write(str(tmp_path / "one.safetensors"), one, {"format": "pt"})
    torch.write(str(tmp_path / "two.pt"), arrays(1))
    mean = tmp_path / "mean.safetensors"
    convert_weights(
        tmp_path / "one.safetensors", mean, FAMILIES, "openai", other=tmp_path / "two.pt"
    )
    found, two = contents(mean), arrays(1)
    assert set(found) == set(one)
    for name, array in found.items():
        assert array.dtype == dtype, name
        expected = (one[name].astype("f8") + two[name].astype("f8")) / 2
        np.testing.assert_array_equal(array, expected.astype(dtype), name)


def test_files_of_other_networks_are_refused(tmp_path, capsys):
    torch.write(str(tmp_path / "one.pt"), arrays(0))
    less = arrays(1)
    del less["visual.ln_post.bias"]
    torch.write(str(tmp_path / "less.pt"), less)
    other = {**arrays(1), "text_projection": np.zeros((64, 32), np.float32)}
    torch.write(str(tmp_path / "other.pt"), other)
    for name, message in (
        ("less", "has nothing where .*one.pt has 'backbone.norm.bias'"),
        ("other", r"has \[64, 32\] where .*one.pt has 'text_projection.weight' \[64, 48\]"),
    ):
        with pytest.raises(PasslError, match=message):
            convert_weights(
                tmp_path / "one.pt", tmp_path / "mean.pt", FAMILIES, "openai",
                other=tmp_path / f"{name}.pt",
            )  # fmt: skip
        assert not (tmp_path / "mean.pt").exists()
    one, mean = str(tmp_path / "one.pt"), str(tmp_path / "mean.safetensors")
    assert convert_command.main([one, mean, "--mean", one, "--share", "1.5"]) == 2
    assert "lies in [0, 1], not 1.5" in capsys.readouterr().err
    assert convert_command.main([one, mean, "--share", "0.5"]) == 2
    assert "add --mean FILE" in capsys.readouterr().err
    assert convert_command.main([one, mean, "--mean", one]) == 0
    assert set(contents(mean)) >= {"backbone.cls_token", "text.pos_embed", "logit_scale"}
