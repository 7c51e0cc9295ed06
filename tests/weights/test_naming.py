"""Names with numbers, in several parts and of several layers; orders of channels; averages."""

import numpy as np
import paddle as saved_by_paddle
import publishers
import pytest

from passl.utils.errors import PasslError
from passl.utils.stored_array import StoredArray
from passl.weights import WeightFile
from passl.weights.formats import npz, paddle, torch
from passl.weights.naming import Naming, namings, translate

LAYERS = {
    "backbone.stages.{i}.{j}.norm": "stages.{i}.blocks.{j}.bn",
    "backbone.down.{i}": "stages.{i}.down",
}


@pytest.mark.smoke
def test_two_numbers_keep_their_places():
    naming = Naming("someone", "torch", LAYERS)
    assert naming.to_here("stages.2.blocks.13.bn.weight") == "backbone.stages.2.13.norm.weight"
    assert naming.to_there("backbone.stages.2.13.norm.bias", 1) == "stages.2.blocks.13.bn.bias"
    assert naming.to_here("stages.3.down.weight") == "backbone.down.3.weight"
    assert naming.to_here("stages.2.blocks.x.bn.weight") is None


@pytest.mark.smoke
@pytest.mark.parametrize("convention, mean", [("torch", "running_mean"), ("paddle", "_mean")])
def test_running_statistics_have_the_names_of_their_convention(convention, mean):
    naming = Naming("someone", convention, LAYERS)
    there, here = f"stages.0.blocks.1.bn.{mean}", "backbone.stages.0.1.norm._mean"
    assert naming.to_here(there) == here and naming.to_there(here, 1) == there


@pytest.mark.smoke
def test_what_is_no_weight_is_known_and_left_out():
    released = {
        "someone": ("torch", LAYERS, {"no_weights": ("stages.{i}.table",)}),
        "other": ("paddle", LAYERS),
    }
    naming = namings(released)["someone"]
    for name in ("stages.5.table", "stages.0.blocks.1.bn.num_batches_tracked"):
        assert naming.leaves_out(name) and naming.knows(name) and naming.to_here(name) is None
    for name in ("stages.5.tables", "elsewhere.num_batches_tracked"):
        assert not naming.knows(name)
    assert not namings(released)["other"].knows("stages.5.table")


def stored(array):
    return StoredArray(array.shape, array.dtype, lambda: array)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.smoke
def test_numbers_may_be_counted_from_one():
    naming = Naming("x", "torch", {"b.s.{i}.down": "layers.{i+1}.down"})
    assert naming.to_here("layers.3.down.weight") == "b.s.2.down.weight"
    assert naming.to_there("b.s.2.down.weight", 2) == "layers.3.down.weight"
    assert naming.to_here("layers.0.down.weight") is None
    # One way to write a number, so that two names never mean the same.
    assert naming.to_here("layers.03.down.weight") is None


TABLE = {
    "backbone.{i}.qkv": tuple(f"enc{{i}}/attention/{part}" for part in ("query", "key", "value")),
    "backbone.{i}.proj": "enc{i}/attention/out",
    "backbone.norm": "norm",
}


def flax_arrays(heads=3, width=4, channels=6):
    inner = f"{'enc0/attention'}"
    arrays = {"norm/scale": random(channels), "norm/bias": random(channels, seed=1)}
    for seed, part in enumerate(("query", "key", "value")):
        arrays[f"{inner}/{part}/kernel"] = random(channels, heads, width, seed=10 + seed)
        arrays[f"{inner}/{part}/bias"] = random(heads, width, seed=20 + seed)
    arrays[f"{inner}/out/kernel"] = random(heads, width, channels, seed=30)
    arrays[f"{inner}/out/bias"] = random(channels, seed=31)
    return arrays


@pytest.mark.smoke
def test_queries_keys_and_values_are_put_side_by_side(tmp_path):
    arrays = flax_arrays()
    npz.write(str(tmp_path / "x.npz"), arrays)
    released = {"google": ("flax", TABLE, {"head_widths": {6: 3, 12: 4}})}
    with WeightFile(tmp_path / "x.npz") as file:
        found = translate(file, released)
        here = {name: array.read() for name, array in found.tensors.items()}
    assert not found.unexpected and len(here) == 6
    x = random(5, 6, seed=50)
    for at, part in enumerate(("query", "key", "value")):
        theirs = np.einsum("si,ihw->shw", x, arrays[f"enc0/attention/{part}/kernel"])
        theirs = theirs + arrays[f"enc0/attention/{part}/bias"]
        ours = x @ here["backbone.0.qkv.weight"] + here["backbone.0.qkv.bias"]
        # Paddle's side: three thirds, in each the heads one after the other.
        third = ours[:, 12 * at : 12 * at + 12].reshape(5, 3, 4)
        np.testing.assert_allclose(third, theirs, rtol=1e-5, atol=1e-5)
    heads = random(5, 3, 4, seed=51)
    theirs = np.einsum("shw,hwo->so", heads, arrays["enc0/attention/out/kernel"])
    ours = heads.reshape(5, 12) @ here["backbone.0.proj.weight"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    # And back, each bit as it was.
    naming, back = namings(released)["google"], {}
    for name, array in here.items():
        back.update(naming.write(name, stored(array)))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name].read(), array)


def test_how_many_heads_there_are_is_not_guessed():
    naming = Naming("google", "flax", TABLE, head_widths={12: 4})
    with pytest.raises(PasslError, match="how many heads a network of 7 channels"):
        naming.write("backbone.0.qkv.weight", stored(random(7, 21)))


def test_a_part_that_is_missing_is_told_and_the_rest_is_not_taken_for_the_whole(tmp_path):
    arrays = flax_arrays()
    del arrays["enc0/attention/key/bias"]
    npz.write(str(tmp_path / "x.npz"), arrays)
    with WeightFile(tmp_path / "x.npz") as file:
        found = translate(file, {"google": ("flax", TABLE)})
    assert "backbone.0.qkv.bias" not in found.tensors and "backbone.0.qkv.weight" in found.tensors
    assert found.unexpected == ["enc0/attention/query/bias", "enc0/attention/value/bias"]


@pytest.mark.smoke
def test_bare_matrices_are_never_transposed(tmp_path):
    table = {"backbone.{i}.table[:, :]": "b.{i}.table[:, :]", "backbone.{i}.fc": "b.{i}.fc"}
    arrays = {"b.0.table": random(3, 3), "b.0.fc.weight": random(3, 3, seed=1)}
    torch.write(str(tmp_path / "x.pth"), arrays)
    with WeightFile(tmp_path / "x.pth") as file:
        here = translate(file, {"x": ("torch", table)}).tensors
        np.testing.assert_array_equal(here["backbone.0.table"].read(), arrays["b.0.table"])
        np.testing.assert_array_equal(
            here["backbone.0.fc.weight"].read(), arrays["b.0.fc.weight"].T
        )
    naming = namings({"x": ("torch", table)})["x"]
    (back,) = naming.write("backbone.0.table", stored(arrays["b.0.table"])).values()
    np.testing.assert_array_equal(back.read(), arrays["b.0.table"])


def test_one_array_serves_every_layer_that_the_file_has(tmp_path):
    table = {"backbone.*.table[:, :]": "shared.table[:, :]", "backbone.{i}.fc": "b.{i}.fc"}
    arrays = {"shared.table": random(3, 2), **{f"b.{i}.fc.bias": random(2) for i in range(3)}}
    torch.write(str(tmp_path / "x.pth"), arrays)
    with WeightFile(tmp_path / "x.pth") as file:
        found = translate(file, {"x": ("torch", table)})
        assert set(found.tensors) == {
            f"backbone.{i}.{leaf}" for i in range(3) for leaf in ("table", "fc.bias")
        }
        for i in range(3):
            array = found.tensors[f"backbone.{i}.table"].read()
            np.testing.assert_array_equal(array, arrays["shared.table"])


def test_unfolded_channels_come_to_lie_pixel_by_pixel():
    """mmpretrain merges by nn.Unfold, Swin's authors by joining four pixels."""
    channels = 3
    naming = Naming("x", "torch", {"backbone.down": "down|unfold", "backbone.norm": "norm|unfold"})
    pixels = random(2, 2, channels)  # y, x, channel
    theirs = pixels.transpose(2, 0, 1).reshape(-1)  # channel by channel, rows of pixels
    ours = np.concatenate([pixels[0, 0], pixels[1, 0], pixels[0, 1], pixels[1, 1]])
    weight, scale = random(6, 4 * channels, seed=1), random(4 * channels, seed=2)
    here = naming.read("down.weight", stored(weight), "torch").read()
    np.testing.assert_allclose(ours @ here, weight @ theirs, rtol=1e-5)
    scaled = naming.read("norm.weight", stored(scale), "torch").read()
    np.testing.assert_allclose((ours * scaled) @ here, weight @ (theirs * scale), rtol=1e-5)
    (back,) = naming.write("backbone.down.weight", stored(here)).values()
    np.testing.assert_array_equal(back.read(), weight)


@pytest.mark.parametrize(
    "key, publisher", [("", "timm"), ("model", "facebook"), ("module", "facebook"), ("net", "timm")]
)
def test_the_place_in_the_file_settles_between_equal_names(tmp_path, key, publisher):
    table = {"backbone.fc": "fc"}
    released = {
        "timm": ("torch", table),
        "facebook": ("torch", table, {"key": ("model", "module")}),
    }
    arrays = {"fc.weight": random(2, 3), "fc.bias": random(2)}
    if key:
        publishers.write_under(tmp_path / "x.pth", key, arrays)
    else:
        torch.write(str(tmp_path / "x.pth"), arrays)
    with WeightFile(tmp_path / "x.pth") as file:
        assert file.key == key
        assert translate(file, released).publisher == publisher


@pytest.mark.parametrize("write, suffix, publisher", [
    (torch.write, "pth", "timm"), (paddle.write, "pdparams", "paddleclas"),
])  # fmt: skip
def test_the_layout_settles_between_equal_names(tmp_path, write, suffix, publisher):
    table = {"backbone.fc": "fc"}
    released = {"timm": ("torch", table), "paddleclas": ("paddle", table)}
    write(str(tmp_path / f"x.{suffix}"), {"fc.weight": random(2, 3), "fc.bias": random(2)})
    with WeightFile(tmp_path / f"x.{suffix}") as file:
        assert translate(file, released).publisher == publisher


@pytest.mark.smoke
@pytest.mark.parametrize("average, key, first", [
    (False, None, 1.0), (True, None, 2.0), (True, "state_dict", 1.0), (True, "state_dict_ema", 2.0),
])  # fmt: skip
def test_the_average_is_taken_where_it_is_what_was_published(tmp_path, average, key, first):
    copies = {"state_dict": 1.0, "state_dict_ema": 2.0}
    saved = {name: {"fc.bias": np.full(3, value)} for name, value in copies.items()}
    saved_by_paddle.save(saved, str(tmp_path / "x.pdparams"))
    released = {"x": ("paddle", {"backbone.fc": "fc"}, {"average": average})}
    with WeightFile(tmp_path / "x.pdparams", key) as file:
        found = translate(file, released)
        assert found.tensors["backbone.fc.bias"].read()[0] == first
        assert found.key == (key or ("state_dict_ema" if average else "state_dict"))
