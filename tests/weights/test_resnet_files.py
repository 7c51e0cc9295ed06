"""Files of a narrow ResNet as each publisher names and stores them, written out by hand.

From the publishers' own code, not from the tables of ``passl``: see the sources named there.
"""

import json
import re

import numpy as np
import paddle
import publishers
import pytest
from helpers import config_for_many, run_here, write_images

from passl.modeling.architectures import build_architecture
from passl.modeling.architectures.classifier import Network
from passl.modeling.backbones import BACKBONES
from passl.utils.errors import PasslError
from passl.weights import WeightFile, load_weights
from passl.weights.formats import paddle as paddle_format
from passl.weights.formats import safetensors, torch
from passl.weights.naming import translate

CLASSES, DIM, HIDDEN, K = 7, 6, 10, 16
TABLES = BACKBONES.attribute("ResNet", "released_names", {})
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def drawn(rng, name, shape):
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = 0.3 if len(shape) == 1 else (2 / np.prod(shape[1:])) ** 0.5
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def norm(name, channels):
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": (channels,) for leaf in leaves}


def torchvision(blocks, width=4, classes=CLASSES, seed=0):
    """torchvision/models/resnet.py, of bottlenecks; torch stores a linear layer as out, in."""
    shapes = {"conv1.weight": (width, 3, 7, 7), **norm("bn1", width)}
    channels = width
    for i, count in enumerate(blocks):
        inside = width * 2**i
        for j in range(count):
            block = f"layer{i + 1}.{j}"
            shapes[f"{block}.conv1.weight"] = (inside, channels, 1, 1)
            shapes[f"{block}.conv2.weight"] = (inside, inside, 3, 3)
            shapes[f"{block}.conv3.weight"] = (4 * inside, inside, 1, 1)
            shapes.update(norm(f"{block}.bn1", inside))
            shapes.update(norm(f"{block}.bn2", inside))
            shapes.update(norm(f"{block}.bn3", 4 * inside))
            if j == 0:
                shapes[f"{block}.downsample.0.weight"] = (4 * inside, channels, 1, 1)
                shapes.update(norm(f"{block}.downsample.1", 4 * inside))
            channels = 4 * inside
    shapes.update({"fc.weight": (classes, channels), "fc.bias": (classes,)})
    rng = np.random.default_rng(seed)
    return {name: drawn(rng, name, shape) for name, shape in shapes.items()}


def counted(arrays):
    """As torch has it: a number beside every running variance."""
    counters = {
        name.replace("running_var", "num_batches_tracked"): np.array(9, np.int64)
        for name in arrays
        if name.endswith("running_var")
    }
    return {**arrays, **counters}


def in_paddle(arrays):
    """paddle.nn.BatchNorm2D's names; a linear layer is in, out."""
    renamed = {"running_mean": "_mean", "running_var": "_variance"}
    return {
        re.sub("running_mean|running_var", lambda m: renamed[m.group()], name): (
            array.T.copy() if array.ndim == 2 else array
        )
        for name, array in arrays.items()
    }


def behind(prefix, arrays, head=None):
    """The backbone's names behind a prefix, those of the classes under another name, or gone."""
    found = {f"{prefix}{n}": a for n, a in arrays.items() if not n.startswith("fc.")}
    if head:
        found.update({f"{head}.{leaf}": arrays[f"fc.{leaf}"] for leaf in ("weight", "bias")})
    return found


def paddleclas(arrays, blocks):
    """ppcls/arch/backbone/legendary_models/resnet.py: one list of blocks through all stages."""
    found = {}
    for name, array in in_paddle(arrays).items():
        layer, leaf = name.rsplit(".", 1)
        stage = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", layer)
        if stage:
            number = sum(blocks[: int(stage[1]) - 1]) + int(stage[2])
            there = {
                "downsample.0": "short.conv", "downsample.1": "short.bn",
                **{f"conv{k + 1}": f"conv{k}.conv" for k in range(3)},
                **{f"bn{k + 1}": f"conv{k}.bn" for k in range(3)},
            }[stage[3]]  # fmt: skip
            layer = f"blocks.{number}.{there}"
        else:
            layer = {"conv1": "stem.0.conv", "bn1": "stem.0.bn", "fc": "fc"}[layer]
        found[f"{layer}.{leaf}"] = array
    return found


def linear(rng, name, inputs, outputs):
    return {
        f"{name}.weight": drawn(rng, name, (outputs, inputs)),
        f"{name}.bias": drawn(rng, name, (outputs,)),
    }


def moco(version, query, key, maps, blocks):
    """moco/builder.py: network, momentum encoder, keys in columns, and where the next ones go."""
    rng = np.random.default_rng(9)
    arrays = {}
    for encoder, seed in ((query, 1), (key, 2)):
        parts = torchvision(blocks, seed=seed)
        width = parts["fc.weight"].shape[1]
        arrays.update(behind(encoder, parts))
        outer = encoder.partition(".")[0]
        sizes = {1: [(width, DIM)], 2: [(width, HIDDEN), (HIDDEN, DIM)]}[version]
        for place, (inputs, outputs) in zip(maps, sizes):
            arrays.update(linear(rng, f"{outer}.{place}", inputs, outputs))
    columns = rng.standard_normal((DIM, K)).astype(np.float32)
    return {**arrays, "queue": columns, "queue_ptr": np.array([8], np.int64)}


def of_torch(folder, arrays, prefix=""):
    """Writes ``{"state_dict": …}`` as the authors' training scripts do; returns the path."""
    path = folder / "checkpoint_0199.pth.tar"
    named = {f"{prefix}{name}": array for name, array in counted(arrays).items()}
    publishers.write_under(path, "state_dict", named)
    return path


def of_paddle(folder, arrays):
    path = folder / "file.pdparams"
    paddle_format.write(str(path), arrays)
    return path


def network(blocks, width=4, classes=CLASSES):
    paddle.seed(0)
    head = {"name": "ClassificationHead", "num_classes": classes}
    made = Network({"name": "ResNet", "blocks": list(blocks), "width": width}, head)
    made.eval()
    return made


def answers(model):
    image = np.random.default_rng(5).standard_normal((2, 3, 48, 40)).astype(np.float32)
    with paddle.no_grad():
        return model(paddle.to_tensor(image)).numpy()


CLASSIFIERS = {
    "torchvision": lambda a, b: counted(a),
    "lincls": lambda a, b: {f"module.{n}": array for n, array in counted(a).items()},
    "paddle_vision": lambda a, b: in_paddle(a),
    "passl_v1": lambda a, b: behind("backbone.", in_paddle(a), "head.fc_cls"),
    "mmpretrain": lambda a, b: behind("backbone.", counted(a), "head.fc"),
    "paddleclas_50": paddleclas,
}


@pytest.mark.smoke
@pytest.mark.parametrize("publisher", CLASSIFIERS)
def test_classifiers_give_the_same_logits(publisher, tmp_path):
    blocks = DEPTHS[50]
    arrays = torchvision(blocks)
    model = network(blocks)
    start = answers(model)
    theirs = CLASSIFIERS[publisher](arrays, blocks)
    in_torch = publisher in ("torchvision", "lincls", "mmpretrain")
    path = tmp_path / ("x.pth" if in_torch else "x.pdparams")
    (torch if in_torch else paddle_format).write(str(path), theirs)
    report = load_weights(model, path)
    assert report.publisher == ("torchvision" if publisher == "lincls" else publisher)
    assert not report.kept
    assert all(name.endswith("num_batches_tracked") for name in report.left_out)
    # Number by number, by the order of the layers.
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for ours, there in (
        ("backbone.stem.conv.weight", "conv1.weight"),
        ("backbone.stem.norm._variance", "bn1.running_var"),
        ("backbone.stages.0.0.shortcut.norm._mean", "layer1.0.downsample.1.running_mean"),
        ("backbone.stages.2.5.layers.1.conv.weight", "layer3.5.conv2.weight"),
        ("backbone.stages.3.0.shortcut.conv.weight", "layer4.0.downsample.0.weight"),
        ("backbone.stages.3.2.layers.2.norm.bias", "layer4.2.bn3.bias"),
    ):
        np.testing.assert_array_equal(state[ours], arrays[there], err_msg=ours)
    np.testing.assert_array_equal(state["head.fc.weight"], arrays["fc.weight"].T)
    other = network(blocks)
    load_weights(other, of_torch(tmp_path, arrays))
    np.testing.assert_array_equal(answers(model), answers(other))
    assert np.abs(answers(model) - start).max() > 1e-3


@pytest.mark.parametrize("depth", [101, 152])
def test_paddleclas_counts_blocks_through_all_stages(depth, tmp_path):
    blocks = DEPTHS[depth]
    arrays = torchvision(blocks, width=1)
    with WeightFile(of_paddle(tmp_path, paddleclas(arrays, blocks))) as file:
        found = translate(file, TABLES)
        assert found.publisher == f"paddleclas_{depth}" and not found.unexpected
        with WeightFile(of_torch(tmp_path, arrays)) as other:
            wanted = translate(other, TABLES).tensors
            assert set(found.tensors) == set(wanted)
            for name, array in wanted.items():
                np.testing.assert_array_equal(found.tensors[name].read(), array.read(), name)


def test_paddleclas_small_networks_are_others(tmp_path):
    """Their first block has a convolution in its shortcut."""
    state = network([2, 2]).state_dict()
    assert "backbone.stages.0.0.shortcut.conv.weight" in state  # of a bottleneck
    head = {"name": "ClassificationHead", "num_classes": CLASSES}
    basic = Network({"name": "resnet18", "width": 1}, head)
    arrays = {
        "stem.0.conv.weight": np.zeros((1, 3, 7, 7), np.float32),
        "blocks.0.short.conv.weight": np.zeros((1, 1, 1, 1), np.float32),
        "blocks.0.conv0.conv.weight": np.zeros((1, 1, 3, 3), np.float32),
    }
    with pytest.raises(PasslError, match="unexpected: backbone.stages.0.0.shortcut.conv.weight"):
        load_weights(basic, of_paddle(tmp_path, arrays))


# ------------------------------------------------ networks that learned without labels


BLOCKS = (1, 2)


def method(version):
    paddle.seed(0)
    return build_architecture(
        {
            "name": "MoCo",
            "architecture": {"name": "ResNet", "blocks": list(BLOCKS), "width": 4},
            "projector": {"hidden": HIDDEN, "out": DIM, "layers": version},
            "K": K,
        }
    )


@pytest.mark.smoke
@pytest.mark.parametrize("publisher, version, query, key, maps", [
    ("moco", 2, "encoder_q.", "encoder_k.", ("fc.0", "fc.2")),
    ("moco_v1", 1, "encoder_q.", "encoder_k.", ("fc",)),
    ("passl_v1_moco", 2, "encoder_q.0.", "encoder_k.0.", ("1.mlp.0", "1.mlp.2")),
    ("passl_v1_moco_v1", 1, "encoder_q.0.", "encoder_k.0.", ("1.fc",)),
])  # fmt: skip
def test_mocos_files_hold_everything_to_go_on_with(publisher, version, query, key, maps, tmp_path):
    arrays = moco(version, query, key, maps, BLOCKS)
    if publisher.startswith("passl"):
        theirs = in_paddle({n: a for n, a in arrays.items() if n != "queue"})
        theirs.update({"queue": arrays["queue"], "queue_ptr": arrays["queue_ptr"]})
        again = {
            n.replace("encoder_q.0.", "backbone."): a
            for n, a in theirs.items()
            if n.startswith("encoder_q.0.")
        }
        path = of_paddle(tmp_path, {**theirs, **again})
    else:
        path = of_torch(tmp_path, arrays, "module.")
    model = method(version)
    report = load_weights(model, path)
    assert report.publisher == publisher and not report.kept
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert len(report.loaded) == len(state)
    for ours, there in (("", query), ("twin.", key)):
        conv = f"{there}layer2.1.conv2.weight"
        name = f"{ours}backbone.stages.1.1.layers.1.conv.weight"
        np.testing.assert_array_equal(state[name], arrays[conv])
        mean = state[f"{ours}backbone.stem.norm._mean"]
        np.testing.assert_array_equal(mean, arrays[f"{there}bn1.running_mean"])
        outer = there.partition(".")[0]
        for k, place in enumerate(maps):
            weight = arrays[f"{outer}.{place}.weight"]
            np.testing.assert_array_equal(state[f"{ours}projector.fcs.{k}.weight"], weight.T)
            bias = arrays[f"{outer}.{place}.bias"]
            np.testing.assert_array_equal(state[f"{ours}projector.fcs.{k}.bias"], bias)
    np.testing.assert_array_equal(state["queue.keys"], arrays["queue"].T)
    assert state["queue.pointer"].tolist() == [8] and model.queue.pointer.dtype == paddle.int64


@pytest.mark.smoke
@pytest.mark.parametrize("publisher, prefix, aside", [
    ("simsiam", "module.encoder.",
     ["module.encoder.fc.0.weight", "module.encoder.fc.6.bias", "module.encoder.fc.7.running_var",
      "module.encoder.fc.1.num_batches_tracked", "module.predictor.3.weight"]),
    ("passl_v1_simclr", "encoder.0.",
     ["encoder.1.mlp.0.weight", "encoder.1.mlp.1._mean", "backbone.conv1.weight"]),
    ("passl_v1_byol", "towers.0.0.",
     ["towers.0.1.mlp.0.weight", "towers.1.0.conv1.weight", "towers.1.1.mlp.1._variance",
      "predictor.mlp.3.bias", "classifier.weight", "backbone.bn1._mean"]),
])  # fmt: skip
def test_of_other_methods_the_backbone_is_taken(publisher, prefix, aside, tmp_path):
    arrays = torchvision(BLOCKS)
    write = of_paddle if publisher.startswith("passl") else of_torch
    plain = in_paddle(arrays) if publisher.startswith("passl") else arrays
    extra = {name: np.ones(3, np.float32) for name in aside}
    path = write(tmp_path, {**behind(prefix, plain), **extra})
    model = network(BLOCKS)
    head = model.head.fc.weight.numpy()
    report = load_weights(model, path, new_head=True)
    assert report.publisher == publisher
    assert report.kept == ["head.fc.weight", "head.fc.bias"]
    left = {name for name in report.left_out if not name.endswith("num_batches_tracked")}
    assert left == {name for name in aside if not name.endswith("num_batches_tracked")}
    other = network(BLOCKS)
    load_weights(other, of_torch(tmp_path, arrays))
    for name, tensor in other.backbone.state_dict().items():
        found = model.backbone.state_dict()[name].numpy()
        np.testing.assert_array_equal(found, tensor.numpy(), err_msg=name)
    np.testing.assert_array_equal(model.head.fc.weight.numpy(), head)


@pytest.mark.smoke
def test_a_classifier_takes_mocos_query_encoder(tmp_path):
    """Not the momentum encoder; main_lincls.py takes the same."""
    arrays = moco(2, "encoder_q.", "encoder_k.", ("fc.0", "fc.2"), BLOCKS)
    model, other = network(BLOCKS), network(BLOCKS)
    report = load_weights(model, of_torch(tmp_path, arrays, "module."), new_head=True)
    assert report.kept == ["head.fc.weight", "head.fc.bias"]
    load_weights(other, of_torch(tmp_path, torchvision(BLOCKS, seed=1)), new_head=True)
    for name, tensor in other.backbone.state_dict().items():
        found = model.backbone.state_dict()[name].numpy()
        np.testing.assert_array_equal(found, tensor.numpy(), err_msg=name)


def test_a_file_is_written_in_others_names_bit_for_bit(tmp_path):
    """To MoCo's and back: keys in columns again."""
    arrays = moco(2, "encoder_q.", "encoder_k.", ("fc.0", "fc.2"), BLOCKS)
    model = method(2)
    load_weights(model, of_torch(tmp_path, arrays, "module."))
    own = tmp_path / "own.safetensors"
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    safetensors.write_tensor_file(own, state, {"kind": "weights"})
    back = tmp_path / "back.pth"
    code, _, err = run_here("convert", own, back, "--to", "moco")
    assert code == 0, err
    with WeightFile(back) as file:
        found = file.read_group(file.key)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.smoke
def test_a_file_of_a_classifier_is_evaluated_by_its_config(tmp_path):
    """As MoCo's main_lincls.py saves one."""
    images = write_images(tmp_path, size=(40, 44))
    cfg = config_for_many(images, 32)
    cfg["model"]["architecture"] = {"name": "ResNet", "blocks": list(BLOCKS), "width": 4}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(cfg))
    path = of_torch(tmp_path, torchvision(BLOCKS, classes=3), "module.")
    result = tmp_path / "result.json"
    code, out, err = run_here("eval", "-c", config, "--weights", path, "--json", result)
    assert code == 0, err
    assert "torchvision names" in out and json.loads(result.read_text())["samples"] > 0


@pytest.mark.parametrize("publisher", TABLES)
def test_every_table_takes_back_what_it_writes(publisher, tmp_path):
    blocks = DEPTHS[int(publisher[-3:].strip("_"))] if "paddleclas" in publisher else BLOCKS
    model = network(blocks, width=1)
    state = {name: tensor.numpy() for name, tensor in model.backbone.state_dict().items()}
    source = tmp_path / "own.safetensors"
    named = {f"backbone.{name}": array for name, array in state.items()}
    safetensors.write_tensor_file(source, named, {"kind": "weights"})
    suffix = "pth" if TABLES[publisher][0] == "torch" else "pdparams"
    target = tmp_path / f"theirs.{suffix}"
    code, _, err = run_here("convert", source, target, "--to", publisher)
    assert code == 0, err
    with WeightFile(target) as file:
        found = translate(file, {publisher: TABLES[publisher]})
        assert set(found.tensors) == set(named) and not found.unexpected
        for name, array in named.items():
            np.testing.assert_array_equal(found.tensors[name].read(), array, err_msg=name)
