"""Weights of all publishers into a network: every tensor accounted for."""

import ml_dtypes
import numpy as np
import paddle
import publishers
import pytest
from publishers import CLASSES, NETWORK, own

import passl
from passl.modeling.architectures import Architecture, build_architecture
from passl.modeling.architectures.classifier import Network
from passl.modeling.backbones import build_backbone
from passl.utils.errors import PasslError
from passl.weights import WeightFile, load_weights, write_tensor_file
from passl.weights.formats import safetensors, torch


def network(classes=CLASSES, **changes):
    head = {"name": "ClassificationHead", "num_classes": classes} if classes else None
    return Network({"name": "MlpMixer", **NETWORK, **changes}, head)


def save_as(folder, publisher, arrays):
    """Writes a file as the publisher does; returns its path."""
    theirs = getattr(publishers, publisher)(arrays)
    path = folder / f"{publisher}.weights"  # no suffix that tells
    if publisher == "google":
        with open(path, "wb") as file:
            np.savez(file, **theirs)
    elif publisher in ("timm", "mmpretrain"):
        torch.write(str(path), theirs)
    else:
        paddle.save(theirs, str(path))
    return path


def holds(model, arrays):
    state = model.state_dict()
    assert set(state) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(state[name].numpy(), array, err_msg=name)


PUBLISHERS = ("google", "timm", "timm_in_paddle", "mmpretrain", "passl_v1", "paddlevit", "ppim")


@pytest.mark.smoke
@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_each_publishers_names_and_layout(publisher, tmp_path):
    arrays = own()
    model = network()
    report = load_weights(model, save_as(tmp_path, publisher, arrays))
    holds(model, arrays)
    assert len(report.loaded) == len(arrays) and not report.kept and not report.left_out
    assert report.publisher == ("timm" if publisher == "timm_in_paddle" else publisher)


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_each_tensor_matters(publisher, tmp_path):
    """Patch embedding's and head's biases too: a changed tensor changes the logits.

    All but one: the bias of a token-mixing MLP's output is the same for all channels of a token,
    and LayerNorm takes out what all channels of a token have in common.
    """
    images = paddle.to_tensor(np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype("f4"))
    model = network()
    load_weights(model, save_as(tmp_path, publisher, own()))
    before = model(images).numpy()
    for name in own():
        arrays = own()
        arrays[name] = arrays[name] + 0.25 * np.random.default_rng(2).normal(
            size=arrays[name].shape
        ).astype("f4")
        load_weights(model, save_as(tmp_path, publisher, arrays))
        change = np.abs(model(images).numpy() - before).max()
        assert (change < 1e-5) if name.endswith("mlp_tokens.fc2.bias") else (change > 1e-4), name


@pytest.mark.parametrize("prefix", ["module.", "_layers.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("publisher", ["timm", "passl_v1", "mmpretrain"])
def test_wrappers_before_every_name(publisher, prefix, tmp_path):
    arrays = own()
    theirs = {prefix + n: a for n, a in getattr(publishers, publisher)(arrays).items()}
    path = tmp_path / "wrapped"
    if publisher == "passl_v1":
        paddle.save(theirs, str(path))
    else:
        torch.write(str(path), theirs)
    model = network()
    load_weights(model, path)
    holds(model, arrays)


@pytest.mark.smoke
@pytest.mark.parametrize("key", ["state_dict", "model", "params"])
def test_nested_paddle_checkpoints(key, tmp_path):
    """Inside another mapping Paddle pickles tensors in a way of its own."""
    arrays = own()
    inner = {n: paddle.to_tensor(a) for n, a in publishers.passl_v1(arrays).items()}
    optimizer = {"moment1": paddle.ones([3]), "LR_Scheduler": {"last_lr": 0.1}}
    paddle.save({"epoch": 3, key: inner, "optimizer": optimizer}, str(tmp_path / "x.pdparams"))
    model = network()
    load_weights(model, tmp_path / "x.pdparams")
    holds(model, arrays)


@pytest.mark.smoke
def test_a_state_dict_of_paddle_tensors(tmp_path):
    model, other = network(), network()
    load_weights(model, save_as(tmp_path, "google", own()))
    paddle.save(model.state_dict(), str(tmp_path / "x.pdparams"))
    load_weights(other, tmp_path / "x.pdparams")
    holds(other, own())


@pytest.mark.parametrize("prefix", ["params/", "opt/target/", ""])
def test_flax_training_states(prefix, tmp_path):
    arrays = own()
    theirs = {prefix + n: a for n, a in publishers.google(arrays).items()}
    if prefix:
        theirs["opt/step"] = np.int64(3)
    np.savez(tmp_path / "x.npz", **theirs)
    model = network()
    load_weights(model, tmp_path / "x.npz")
    holds(model, arrays)


def test_a_moving_average_is_taken_only_when_asked_for(tmp_path, messages):
    arrays, average = own(), own(seed=1)
    both = {
        "state_dict": publishers.passl_v1(arrays),
        "state_dict_ema": publishers.passl_v1(average),
        "optimizer": {"m": np.ones(3, np.float32)},
    }
    path = tmp_path / "both.pdparams"
    paddle.save(both, str(path))
    model = network()
    load_weights(model, path)
    holds(model, arrays)
    assert any("--weights-key state_dict_ema" in line for line in messages())
    load_weights(model, path, key="state_dict_ema")
    holds(model, average)
    with pytest.raises(PasslError, match="'optimizer' \\(1\\)") as raised:
        load_weights(model, path, key="ema")
    assert "state_dict_ema" in str(raised.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, ">f4"])
@pytest.mark.parametrize("form", ["npz", "torch", "paddle", "safetensors"])
def test_other_number_types(form, dtype, tmp_path):
    dtype = np.dtype(dtype)
    if dtype.byteorder == ">" and form not in ("npz", "paddle"):
        pytest.skip("this format has one byte order")
    arrays = {name: array.astype(dtype) for name, array in own().items()}
    path = tmp_path / "x"
    if form == "npz":
        with open(path, "wb") as file:
            np.savez(file, **publishers.google(arrays))
    elif form == "torch":
        torch.write(str(path), publishers.timm(arrays))
    elif form == "safetensors":
        safetensors.write(str(path), publishers.timm(arrays), {"format": "pt"})
    else:
        bits = {n: a.view(np.uint16) if dtype.kind == "V" else a for n, a in arrays.items()}
        paddle.save(publishers.passl_v1(bits), str(path))
    model = network()
    load_weights(model, path)
    holds(model, {name: array.astype(np.float32) for name, array in arrays.items()})


# ---------------------------------------------------------------- strictness


def broken(tmp_path, change):
    arrays = publishers.timm(own())
    change(arrays)
    path = tmp_path / "broken.safetensors"
    safetensors.write(str(path), arrays, {"format": "pt"})
    return path


@pytest.mark.smoke
def test_a_mismatch_lists_what_is_wrong_and_changes_nothing(tmp_path):
    def change(arrays):
        del arrays["norm.bias"], arrays["blocks.1.norm2.weight"]
        arrays["blocks.0.attn.weight"] = np.ones((2, 2), np.float32)
        arrays["stem.proj.bias"] = np.ones(5, np.float32)

    path = broken(tmp_path, change)
    model = network()
    before = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with pytest.raises(PasslError) as raised:
        load_weights(model, path)
    text = str(raised.value)
    assert str(path) in text and "\n" not in text
    for part in (
        "2 missing in the file: ", "backbone.norm.bias", "backbone.blocks.1.norm2.weight",
        "1 unexpected: blocks.0.attn.weight",
        "1 of another shape: backbone.stem.proj.bias (file [5], model [24])",
    ):  # fmt: skip
        assert part in text, text
    holds(model, before)


def test_allowed_partial_loading_says_what_was_left_out(tmp_path, messages):
    def change(arrays):
        del arrays["norm.bias"]
        arrays["extra.weight"] = np.ones(3, np.float32)
        arrays["head.bias"] = np.ones(5, np.float32)

    model = network()
    report = load_weights(model, broken(tmp_path, change), allow_partial=True)
    assert report.kept == ["backbone.norm.bias", "head.fc.bias"]
    assert report.left_out == ["extra.weight", "head.fc.bias"]
    assert len(report.loaded) == len(own()) - 2
    (line,) = [line for line in messages() if "loaded in part:" in line]
    assert "backbone.norm.bias" in line and "extra.weight" in line and "head.fc.bias" in line
    np.testing.assert_array_equal(model.state_dict()["head.fc.weight"], own()["head.fc.weight"])


def test_a_square_matrix_that_is_not_transposed_is_noticed(tmp_path):
    """As many tokens as hidden units: the shape says nothing about the layout."""
    arrays = own(tokens_mlp_dim=16)
    assert arrays["backbone.blocks.0.mlp_tokens.fc1.weight"].shape == (16, 16)
    for publisher in PUBLISHERS:
        model = network(tokens_mlp_dim=16)
        load_weights(model, save_as(tmp_path, publisher, arrays))
        holds(model, arrays)


def test_weights_of_something_else(tmp_path):
    names = ("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "fc.weight")
    torch.write(str(tmp_path / "r"), {name: np.ones((3, 3), np.float32) for name in names})
    with pytest.raises(PasslError, match="belong to no release of this network.*conv1.weight"):
        load_weights(network(), tmp_path / "r")


def test_integers_are_no_weights(tmp_path):
    path = broken(tmp_path, lambda a: a.update({"norm.bias": np.ones(24, np.int8)}))
    with pytest.raises(PasslError, match="backbone.norm.bias holds int8, no weights"):
        load_weights(network(), path)


# ---------------------------------------------------------------- heads


@pytest.mark.smoke
def test_a_head_for_other_classes_is_left_out_where_one_fine_tunes(tmp_path, messages):
    path = save_as(tmp_path, "google", own())
    model = network(classes=3)
    with pytest.raises(PasslError, match=r"head.fc.weight \(file \[24, 7\], model \[24, 3\]\)"):
        load_weights(model, path)
    report = load_weights(model, path, new_head=True)
    assert report.kept == ["head.fc.weight", "head.fc.bias"] == report.left_out
    assert not model.state_dict()["head.fc.weight"].numpy().any(), "begins at zero"
    assert any("its head has 7 classes, the model's 3, so the head begins" in m for m in messages())


def with_class_names(folder, arrays, names):
    """Writes weights as a run does, with the names of its classes."""
    path = folder / "run.safetensors"
    tensors = {f"model/{name}": array for name, array in arrays.items()}
    write_tensor_file(path, tensors, {"kind": "training", "class_names": list(names)})
    return path


@pytest.mark.parametrize("wanted", ["gfedcba", "axbycz1", "ab", "abcdefgh", "xyz"])
def test_rows_of_a_head_go_by_the_names_of_the_classes(wanted, tmp_path, messages):
    arrays = own(classes=7)
    path = with_class_names(tmp_path, arrays, "abcdefg")
    model = network(classes=len(wanted))
    for part in ("weight", "bias"):
        tensor = model.state_dict()[f"head.fc.{part}"]
        tensor.set_value(paddle.full(tensor.shape, -9.0))
    load_weights(model, path, new_head=True, class_names=list(wanted))
    for part in ("weight", "bias"):
        theirs, ours = arrays[f"head.fc.{part}"], model.state_dict()[f"head.fc.{part}"].numpy()
        for row, name in enumerate(wanted):
            known = "abcdefg".find(name)
            expected = theirs[..., known] if known >= 0 else -9.0
            np.testing.assert_array_equal(
                ours[..., row], np.broadcast_to(expected, ours.shape[:-1])
            )
    common = sum(name in "abcdefg" for name in wanted)
    said = [m for m in messages() if "rows of" in m or "none of the classes" in m]
    assert len(said) == 1
    assert f"rows of {common} classes" in said[0] if common else "begins anew" in said[0]


def test_a_head_of_the_same_classes_or_of_unnamed_ones_is_taken_whole(tmp_path, messages):
    arrays = own(classes=7)
    path = with_class_names(tmp_path, arrays, "abcdefg")
    for names in (list("abcdefg"), None):
        model = network(classes=7)
        load_weights(model, path, new_head=True, class_names=names)
        holds(model, arrays)
    assert not any("rows of" in message for message in messages())


def test_only_the_head_may_be_left_out_so(tmp_path):
    arrays = {n: a for n, a in own().items() if n != "backbone.norm.bias"}
    path = tmp_path / "x"
    paddle.save(publishers.passl_v1(arrays), str(path))
    with pytest.raises(PasslError, match="1 missing in the file: backbone.norm.bias"):
        load_weights(network(classes=3), path, new_head=True)


def test_files_without_a_head(tmp_path, messages):
    arrays = {n: a for n, a in own().items() if not n.startswith("head")}
    path = tmp_path / "headless"
    for publisher in (publishers.passl_v1, publishers.timm_in_paddle):
        paddle.save(publisher(arrays), str(path))
        with pytest.raises(PasslError, match="2 missing in the file: head.fc.weight, head.fc.bias"):
            load_weights(network(), path)
        model = network()
        load_weights(model, path, new_head=True)
        assert any("has no head, so the head begins anew" in line for line in messages())
        features = network(classes=0)
        load_weights(features, path)
        holds(features, arrays)


def test_twenty_one_thousand_classes(tmp_path):
    arrays = own(classes=21843)
    path = save_as(tmp_path, "google", arrays)
    model = network(classes=21843)
    load_weights(model, path)
    holds(model, arrays)


@pytest.mark.smoke
def test_a_backbone_alone(tmp_path):
    backbone = build_backbone({"name": "MlpMixer", **NETWORK})
    report = load_weights(backbone, save_as(tmp_path, "timm", own()))
    expected = {n[len("backbone.") :]: a for n, a in own().items() if n.startswith("backbone.")}
    holds(backbone, expected)
    assert report.left_out == ["head.fc.weight", "head.fc.bias"]


# ---------------------------------------------------------------- other resolutions


def features_of_tiles(backbone, images, k, size):
    """What a network for ``size`` pixels says of each of the k×k tiles: [N, k, k, S, C]."""
    tiles = [
        [backbone.forward_features(images[:, :, y : y + size, x : x + size]).numpy()
         for x in range(0, k * size, size)]
        for y in range(0, k * size, size)
    ]  # fmt: skip
    return np.moveaxis(np.array(tiles), 2, 0)


@pytest.mark.smoke
@pytest.mark.parametrize("k", [2, 3])
def test_k_times_the_resolution_computes_tile_by_tile_what_the_old_network_did(k, tmp_path):
    path = save_as(tmp_path, "google", own())
    small = network()
    load_weights(small, path)
    large = network(img_size=32 * k, tokens_mlp_dim=10 * k * k)
    load_weights(large, path)
    images = np.random.default_rng(3).normal(size=(2, 3, 32 * k, 32 * k)).astype("f4")
    images = paddle.to_tensor(images)
    # Raster order over the whole image -> [N, tile row, row, tile column, column, C].
    features = large.forward_features(images).numpy()
    features = features.reshape(2, k, 4, k, 4, 24).transpose(0, 1, 3, 2, 4, 5)
    features = features.reshape(2, k, k, 16, 24)
    expected = features_of_tiles(small.backbone, images, k, 32)
    np.testing.assert_allclose(features, expected, atol=2e-5 * np.abs(expected).max())
    # The pooled answer is the mean of the tiles' answers, because the head is linear.
    answers = [
        small(images[:, :, y : y + 32, x : x + 32]).numpy()
        for y in range(0, 32 * k, 32)
        for x in range(0, 32 * k, 32)
    ]
    np.testing.assert_allclose(large(images).numpy(), np.mean(answers, axis=0), atol=1e-4)


def test_tiles_of_an_image_that_is_not_square(tmp_path):
    old = own(img_size=32)
    wide = {n: a for n, a in own(seed=5).items() if "mlp_tokens" not in n}
    for name, array in old.items():  # 4×8 tokens of a 32×64 image
        if "mlp_tokens" in name:
            shape = [32 if n == 16 else n for n in array.shape]
            wide[name] = np.random.default_rng(1).normal(size=shape).astype("f4") / 4
    path = save_as(tmp_path, "passl_v1", wide)
    small = network(img_size=[32, 64])
    load_weights(small, path)
    large = network(img_size=[64, 128], tokens_mlp_dim=40)
    load_weights(large, path)
    images = paddle.to_tensor(np.random.default_rng(3).normal(size=(1, 3, 64, 128)).astype("f4"))
    answers = [
        small(images[:, :, y : y + 32, x : x + 64]).numpy() for y in (0, 32) for x in (0, 64)
    ]
    np.testing.assert_allclose(large(images).numpy(), np.mean(answers, axis=0), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"img_size": 40}, r"for 16 tokens .*this network has 5×5 = 25.*appendix C"),
        ({"img_size": 24}, r"for 16 tokens .*3×3 = 9"),
        ({"img_size": [32, 128]}, r"4×16 = 64"),  # four times as many, in one direction only
        ({"img_size": [32, 64], "tokens_mlp_dim": 20}, r"4×8 = 32"),
        ({"img_size": 64}, r"tokens_mlp_dim=40"),
        ({"img_size": 64, "tokens_mlp_dim": 30}, r"tokens_mlp_dim=40"),
        ({"tokens_mlp_dim": 40}, r"of another shape"),  # the same image, another width
    ],
)
def test_other_changes_of_the_tokens_are_refused_with_the_reason(changes, reason, tmp_path):
    path = save_as(tmp_path, "google", own())
    with pytest.raises(PasslError, match=reason) as raised:
        load_weights(network(**changes), path)
    assert str(path) in str(raised.value)


# ---------------------------------------------------------------- the Python front door


@pytest.mark.smoke
def test_create_model(tmp_path, messages):
    path = save_as(tmp_path, "mmpretrain", own())
    model = passl.create_model("MlpMixer", pretrained=path, **NETWORK)
    assert model.num_classes == CLASSES and not model.training
    holds(model, own())
    images = paddle.randn([2, 3, 32, 32])
    assert model(images).shape == [2, CLASSES]
    features = passl.create_model("MlpMixer", pretrained=path, num_classes=0, **NETWORK)
    assert features(images).shape == [2, 24] and features.num_features == 24
    np.testing.assert_allclose(
        model.head(features(images)).numpy(), model(images).numpy(), atol=1e-5
    )
    other = passl.create_model("MlpMixer", pretrained=path, num_classes=3, **NETWORK)
    assert other(images).shape == [2, 3]
    assert any("head begins anew" in line for line in messages())
    assert passl.create_model("mlp_mixer_s32_224").num_classes == 1000
    with pytest.raises(PasslError, match="did you mean 'mlp_mixer_b16_224'"):
        passl.create_model("mlp_mixer_b16_225")
    with pytest.raises(PasslError, match="there is no such file"):
        passl.create_model("MlpMixer", pretrained=tmp_path / "nowhere.npz")


def test_a_linear_probe_learns_the_head_alone(tmp_path):
    path = save_as(tmp_path, "google", own())
    model = passl.create_model(
        "MlpMixer", pretrained=path, num_classes=3, freeze_backbone=True,
        drop_rate=0.5, drop_path_rate=0.5, **NETWORK,
    )  # fmt: skip
    images, labels = paddle.randn([8, 3, 32, 32]), paddle.randint(0, 3, [8])
    expected = model.backbone(images).numpy()
    model.train()
    assert model.head.training and not model.backbone.training
    np.testing.assert_array_equal(model.backbone(images).numpy(), expected)  # nothing random acts
    optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters(), weight_decay=0.5)
    paddle.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    state = {n: t.numpy() for n, t in model.state_dict().items()}
    for name, array in own().items():
        if name.startswith("backbone."):
            np.testing.assert_array_equal(state[name], array, err_msg=name)
    assert state["head.fc.weight"].any()


def test_freezing_in_a_config():
    cfg = {
        "architecture": {"name": "MlpMixer", **NETWORK},
        "head": {"name": "ClassificationHead", "num_classes": 3},
    }
    model = build_architecture({**cfg, "freeze": ["backbone"]})
    learning = [n for n, p in model.named_parameters() if not p.stop_gradient]
    assert learning == ["head.fc.weight", "head.fc.bias"]
    with pytest.raises(PasslError, match="cannot freeze 'backbon'.*'backbone'.*backbone, head"):
        build_architecture({**cfg, "freeze": ["backbon"]})
    with pytest.raises(PasslError, match="nothing to train"):
        build_architecture({**cfg, "freeze": ["backbone", "head"]})


# ---------------------------------------------------------------- what people hold by mistake


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><head>Sign in", "is a web page"),
        (b"\n <html>", "is a web page"),
        (b"\x1f\x8b\x08abc", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\xff\xd8\xff\xe0", "is an image"),
        (b"PK\x03\x04broken", "is damaged"),
        (b"hello, world", "is no weight file"),
    ],
)
def test_what_is_no_weight_file(content, said, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(PasslError, match=said) as raised:
        WeightFile(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(PasslError, match="is a folder"):
        WeightFile(tmp_path)
    with pytest.raises(PasslError, match="there is no such file"):
        WeightFile(tmp_path / "x")
    with pytest.raises(PasslError, match="is not a file"):
        WeightFile("/dev/zero")


def test_16_bit_weights_fit_a_network_of_16_bits(tmp_path):
    arrays = {name: array.astype(ml_dtypes.bfloat16) for name, array in own().items()}
    path = tmp_path / "half.safetensors"
    safetensors.write_tensor_file(path, arrays, {"kind": "weights"})
    model = network().to(dtype="bfloat16")  # bfloat16() asks what the machine computes in
    load_weights(model, path)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == paddle.bfloat16
        found = tensor.astype("float32").numpy()
        np.testing.assert_array_equal(found, arrays[name].astype(np.float32), err_msg=name)


def test_names_in_several_wrappers(tmp_path):
    arrays = own()
    for wrappers in ("module.", "module.model.", "model.module.model.", "module.module.module."):
        path = tmp_path / "wrapped.pdparams"
        paddle.save({wrappers + name: paddle.to_tensor(a) for name, a in arrays.items()}, str(path))
        model = network()
        load_weights(model, path)
        holds(model, arrays)


def test_a_file_of_which_most_names_are_unknown_is_another_networks(tmp_path):
    """A third of the names is not enough, more than a half is."""
    known = {name: paddle.to_tensor(array) for name, array in own().items()}
    path = tmp_path / "other.pdparams"
    for times, said in ((2, "its names belong to no release"), (0.5, "unexpected")):
        count = int(times * len(known))
        others = {f"tower.layer{i}.table": paddle.zeros([2, 2]) for i in range(count)}
        paddle.save({**known, **others}, str(path))
        with pytest.raises(PasslError, match=said):
            load_weights(network(), path)


def test_an_architecture_of_other_parts_takes_its_own_files(tmp_path):
    """Two towers, of which none is called backbone; a backbone alone still takes a classifier's."""

    class Towers(Architecture):
        def __init__(self):
            super().__init__()
            self.left, self.right = paddle.nn.Linear(2, 3), paddle.nn.Linear(3, 4)

    towers = Towers()
    arrays = {name: tensor.numpy() + 1 for name, tensor in towers.state_dict().items()}
    path = tmp_path / "towers.safetensors"
    write_tensor_file(path, arrays, {"kind": "weights"})
    report = load_weights(towers, path)
    holds(towers, arrays)
    assert sorted(report.loaded) == sorted(arrays) and not report.kept
    write_tensor_file(path, {"left.weight": arrays["left.weight"]}, {"kind": "weights"})
    with pytest.raises(PasslError, match="missing in the file: .*right.weight"):
        load_weights(towers, path)
