"""CvT: sizes, what it refuses, how it starts, what it is made of, files of its publishers."""

import math

import numpy as np
import paddle
import pytest
from paddle import nn

import passl
from passl.engine.execution import recompute_blocks
from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import BACKBONES, build_backbone
from passl.modeling.layers import BatchNorm2D, Mlp, QuickGELU, functional
from passl.utils.errors import PasslError
from passl.weights import WeightFile, load_weights
from passl.weights.converting import convert_weights
from passl.weights.formats import safetensors, torch

SMALL = {
    "embed_dims": [8, 12, 18],
    "depths": [1, 2, 3],
    "num_heads": [1, 2, 3],
    "mlp_ratio": 2.0,
}


def small(classes=5, **arguments):
    """A small network with random numbers in all places, running statistics among them."""
    network = passl.create_model("Cvt", num_classes=classes, **{**SMALL, **arguments})
    rng = np.random.default_rng(0)
    for name, tensor in network.state_dict().items():
        values = rng.normal(size=tensor.shape) * 0.3
        if name.endswith("_variance"):
            values = 1 + np.abs(values)
        tensor.set_value(values.astype(np.float32))
    network.eval()
    return network


def pixels(*shape, seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


# The authors' code has these, W24 also with 21841 classes.
@pytest.mark.parametrize(
    "name, classes, count",
    [
        ("cvt_13", 1000, 19997480),
        ("cvt_21", 1000, 31622696),
        ("cvt_w24", 1000, 277196392),
        ("cvt_w24", 21841, 298558417),
    ],
)
def test_parameter_counts(monkeypatch, name, classes, count):
    # Initialisers would draw, and thereby allocate, every number.
    monkeypatch.setattr(nn.initializer.Initializer, "__call__", lambda *_args, **_kwargs: None)
    network = build_architecture(
        {
            "architecture": {"name": name},
            "head": {"name": "ClassificationHead", "num_classes": classes},
        }
    )
    assert sum(math.prod(p.shape) for p in network.parameters()) == count
    dims = [192, 768, 1024] if name.endswith("w24") else [64, 192, 384]
    assert network.backbone.stage_channels == dims
    assert network.backbone.stage_strides == [4, 8, 16]


@pytest.mark.smoke
def test_shapes_at_any_size():
    network = small().backbone
    assert network.num_features == 18
    for height, width in ((32, 32), (45, 30), (3, 7), (17, 64)):
        image = pixels(2, 3, height, width)
        stages = network.forward_stages(image)
        rows, columns = (height - 3) // 4 + 1, (width - 3) // 4 + 1
        for stage, channels in zip(stages, (8, 12, 18)):
            assert list(stage.shape) == [2, channels, rows, columns]
            rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
        assert len(stages) == 3
        tokens = network.forward_features(image)
        assert list(tokens.shape) == [2, 1 + math.prod(stages[2].shape[2:]), 18]
        last = network.norm(stages[2].flatten(2).transpose([0, 2, 1]))
        np.testing.assert_allclose(tokens[:, 1:], last, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(network(image), tokens[:, 0])
        one = network(image[:1])
        assert list(one.shape) == [1, 18], "a batch of one stays a batch"
        np.testing.assert_allclose(one, tokens[:1, 0], rtol=1e-4, atol=1e-5)
    with pytest.raises(PasslError, match="an image of 9×2 is smaller than a patch"):
        network(paddle.zeros([1, 3, 9, 2]))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"depths": [2]}, "as many as one another, not 3, 1, 3 and 3"),
        ({"drop_path_rates": [0.1]}, "as many as one another, not 3, 3, 3 and 1"),
        (
            {"embed_dims": [], "depths": [], "num_heads": [], "drop_path_rates": []},
            "for each stage",
        ),
        ({"depths": [1, 2, 0]}, "depths must be at least 1, not 0"),
        ({"embed_dims": [8, 12, 0]}, "embed_dims must be at least 1, not 0"),
        ({"num_heads": [1, 2, 4]}, "4 attention heads do not divide 18 channels"),
        ({"num_heads": [1, 2, 0]}, "0 attention heads"),
        ({"mlp_ratio": 0.0}, "mlp_ratio must be at least 1"),
        ({"in_channels": 0}, "in_channels"),
        ({"drop_path_rates": [0.0, 0.0, 1.0]}, "drop_path_rate lies in"),
        ({"drop_rate": 1.0}, "drop_rate lies in"),
        ({"attention_drop_rate": -0.1}, "drop_rate lies in"),
        ({"embed_dims": 8}, "embed_dims"),
        ({"img_size": 224}, "unknown argument 'img_size'"),
    ],
)
def test_impossible_arguments_are_named(changes, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({"name": "Cvt", **SMALL, **changes})


@pytest.mark.smoke
def test_quick_gelu_is_its_formula():
    x = np.linspace(-8, 8, 161)
    found = QuickGELU()(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(found, x / (1 + np.exp(-1.702 * x)), rtol=1e-12, atol=1e-12)
    plain, other = Mlp(3, 4), Mlp(3, 4, act=QuickGELU())
    assert isinstance(plain.act, nn.GELU) and isinstance(other.act, QuickGELU)
    assert set(plain.state_dict()) == set(other.state_dict())


def test_stochastic_depth_begins_anew_in_each_stage():
    network = build_backbone({"name": "Cvt", **SMALL, "drop_path_rates": [0.1, 0.2, 0.4]})
    rates = [[block.drop_path.rate for block in stage.blocks] for stage in network.stages]
    assert rates == [[0.0], [0.0, 0.2], [0.0, 0.2, 0.4]]


@pytest.mark.smoke
def test_stochastic_depth_drops_branches_of_single_images():
    network = small(drop_path_rates=[0.0, 0.0, 0.5]).backbone
    block = network.stages[2].blocks[2]
    x = pixels(1, 1 + 4 * 5, 18).expand([64, 21, 18])
    attention = block(x[:1], (4, 5)).numpy()
    kept = []
    block.drop_path.train()
    paddle.seed(0)
    for image in block(x, (4, 5)).numpy():
        kept.append(not np.allclose(image, x[0].numpy(), atol=1e-6))
    assert {True, False} == set(kept), "both branches, for some of the images, and neither"
    assert 0.5 < np.mean(kept) < 0.95, "three quarters keep one of the two"
    assert not np.allclose(attention, x[0].numpy())


@pytest.mark.parametrize("rate", ["drop_rate", "attention_drop_rate"])
def test_dropout_acts_in_training_alone(rate):
    network = small(**{rate: 0.5}).backbone
    images = pixels(2, 3, 16, 16)
    np.testing.assert_array_equal(network(images), network(images))
    network.train()
    for layer in network.sublayers():
        if isinstance(layer, BatchNorm2D):
            layer.eval()
    assert not np.array_equal(network(images), network(images))


def test_dropout_has_all_its_places():
    """After each stage's first tokens, after the attention, and twice in the MLP."""
    network = small(drop_rate=0.5).backbone
    calls = []
    for name, layer in network.named_sublayers():
        if isinstance(layer, nn.Dropout):
            layer.register_forward_post_hook(lambda *_, name=name: calls.append(name))
    network(pixels(1, 3, 16, 16))
    expected = []
    for i, depth in enumerate(SMALL["depths"]):
        expected.append(f"stages.{i}.pos_drop")
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}"
            expected += [f"{block}.attn.drop", f"{block}.mlp.drop", f"{block}.mlp.drop"]
    assert calls == expected


def test_the_norms_are_torchs():
    """Epsilons of 1e-5, and batch statistics that count a tenth."""
    layers = small().sublayers()
    batch_norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2D)]
    assert len(batch_norms) == 3 * sum(SMALL["depths"])
    assert {(norm._momentum, norm._epsilon) for norm in batch_norms} == {(0.9, 1e-5)}
    layer_norms = [layer for layer in layers if isinstance(layer, nn.LayerNorm)]
    assert len(layer_norms) == 2 * sum(SMALL["depths"]) + len(SMALL["depths"]) + 1
    assert {norm._epsilon for norm in layer_norms} == {1e-5}


@pytest.mark.smoke
def test_depths_of_the_parameters_and_what_never_decays():
    network = small().backbone
    depths = network.parameter_depths
    assert list(depths) == [name for name, _ in network.named_parameters()]
    expected = {
        "stages.0.patch_embed.proj.weight": 0,
        "stages.0.patch_embed.norm.bias": 0,
        "stages.0.blocks.0.norm1.weight": 1,
        "stages.1.patch_embed.proj.bias": 2,
        "stages.1.blocks.0.conv_q.conv.weight": 2,
        "stages.1.blocks.1.attn.proj_k.weight": 3,
        "stages.2.patch_embed.norm.weight": 4,
        "stages.2.cls_token": 4,
        "stages.2.blocks.0.conv_v.norm.bias": 4,
        "stages.2.blocks.2.mlp.fc2.bias": 6,
        "norm.weight": 6,
    }
    assert {name: depths[name] for name in expected} == expected
    assert network.no_weight_decay == {"stages.2.cls_token"}
    tokens = {name for name, _ in network.named_parameters() if name.endswith("cls_token")}
    assert network.no_weight_decay == tokens, "the last stage alone has one"


@pytest.mark.smoke
def test_the_backbone_starts_as_the_authors_does():
    paddle.seed(0)
    network = build_backbone({"name": "Cvt", **SMALL, "embed_dims": [64, 96, 192]})
    layers = dict(network.named_sublayers())
    for name, parameter in network.named_parameters():
        values = parameter.numpy()
        path, _, leaf = name.rpartition(".")
        layer = layers.get(path)
        if isinstance(layer, nn.Conv2D):  # uniform, as torch has convolutions
            bound = math.prod(layer.weight.shape[1:]) ** -0.5
            assert 0.8 * bound < np.abs(values).max() <= bound * (1 + 1e-6), name
            assert values.std() == pytest.approx(bound / 3**0.5, rel=0.25), name
        elif leaf == "cls_token" or (isinstance(layer, nn.Linear) and leaf == "weight"):
            assert values.std() == pytest.approx(0.02, rel=0.15), name
            assert abs(values.mean()) < 0.005, name
        else:
            norm = isinstance(layer, (nn.LayerNorm, nn.BatchNorm2D))
            assert (values == (1 if norm and leaf == "weight" else 0)).all(), name


@pytest.mark.smoke
@pytest.mark.parametrize("way", ["kernels", "paddle"])
def test_every_parameter_gets_a_gradient(monkeypatch, way):
    monkeypatch.setattr(functional, "_WORTH_IT", 0 if way == "kernels" else 2**40)
    network = small().to(dtype="float64")  # so that nothing is not what rounding leaves
    for training in (False, True):
        (network.train if training else network.eval)()
        network.clear_gradients()
        with functional.single_backward():
            network(pixels(3, 3, 32, 24).astype("float64")).square().sum().backward()
        for name, parameter in network.named_parameters():
            # Softmax takes no notice of what is the same for all keys; a class token's is another.
            same_for_all = name.endswith("proj_k.bias") or (
                name.endswith("conv_k.norm.bias") and ".stages.2." not in name
            )
            # Of the last block the class token's query alone counts, which no convolution makes.
            unused = ".stages.2.blocks.2.conv_q." in name
            found = float(parameter.grad.abs().max())
            assert (found < 1e-15) if same_for_all or unused else (found > 1e-8), (
                name,
                training,
                found,
            )


def classifier(**arguments):
    paddle.seed(0)
    return build_architecture(
        {
            "architecture": {"name": "Cvt", **SMALL, **arguments},
            "head": {"name": "ClassificationHead", "num_classes": 3, "init": "lecun_normal"},
        }
    )


def after_one_step(model, forward=None):
    """Returns the loss, the gradients, and the state with running statistics."""
    batch = {"image": pixels(3, 3, 32, 24), "label": paddle.to_tensor([0, 2, 1])}
    paddle.seed(1)
    loss = (forward or model.forward)(batch)["loss"]
    loss.backward()
    gradients = {n: p.grad.numpy() for n, p in model.named_parameters()}
    return float(loss), gradients, {n: t.numpy() for n, t in model.state_dict().items()}


def check_same(found, wanted):
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    for ours, theirs in zip(found[1:], wanted[1:]):
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            np.testing.assert_allclose(ours[name], array, rtol=1e-3, atol=1e-6, err_msg=name)


def test_parts_of_blocks_can_be_computed_twice():
    """The loss, the gradients and the running statistics, which move once, stay what they are."""
    arguments = {"drop_rate": 0.2, "attention_drop_rate": 0.2, "drop_path_rates": [0.0, 0.3, 0.3]}
    plain = after_one_step(classifier(**arguments))
    model = classifier(**arguments)
    twice = [layer for layer in model.sublayers() if getattr(layer, "recompute", False)]
    assert len(twice) == 2 * sum(SMALL["depths"])
    for layer in twice:
        assert not any(isinstance(inner, nn.BatchNorm2D) for inner in layer.sublayers())
    if paddle.__version__.startswith("2."):
        pytest.skip("PaddlePaddle 2 recomputes on a GPU alone")
    recompute_blocks(model)
    check_same(after_one_step(model), plain)
    assert any(
        name.endswith("_mean") and np.abs(array).max() > 0 for name, array in plain[2].items()
    )


@pytest.mark.smoke
@pytest.mark.full
def test_a_static_program_learns_the_same():
    model = classifier()
    program = paddle.jit.to_static(model.forward, full_graph=True)
    check_same(after_one_step(model, program), after_one_step(classifier()))


@pytest.mark.full
def test_one_static_program_takes_any_number_of_images_of_any_size():
    network = small()
    spec = paddle.static.InputSpec([None, 3, None, None], "float32")
    program = paddle.jit.to_static(network.forward, input_spec=[spec], full_graph=True)
    for shape in ((2, 3, 24, 32), (1, 3, 37, 16)):
        images = pixels(*shape)
        with paddle.no_grad():
            eager = small()(images).numpy()
        np.testing.assert_allclose(program(images), eager, rtol=1e-4, atol=1e-5)


@pytest.mark.smoke
def test_in_float64_it_gives_the_same_more_exactly():
    network = small()
    images = pixels(2, 3, 24, 32)
    narrow = network(images).numpy()
    wide = network.to(dtype="float64")(images.astype("float64"))
    assert wide.dtype == paddle.float64
    np.testing.assert_allclose(narrow, wide.numpy(), rtol=1e-4, atol=1e-5)


# What released files hold, written out by hand from the publishers' code.
def under_the_names_of(publisher, network):
    theirs = {}
    for name, tensor in network.state_dict().items():
        array = tensor.numpy()
        for part in "qkv":
            name = name.replace(f"conv_{part}.conv", f"attn.conv_proj_{part}.conv")
            name = name.replace(f"conv_{part}.norm", f"attn.conv_proj_{part}.bn")
        name = name.replace("backbone.stages.", "backbone.stage")
        name = name.replace("head.fc.", "head.")
        if publisher == "passl_v1":
            name = name.replace("head.", "head.fc_cls.")
        else:
            name = name.replace("backbone.", "")
        if publisher in ("passl_v1", "paddlevit"):
            for part in "qkv":
                name = name.replace(f"conv_proj_{part}.conv", f"conv_proj_{part}.0")
                name = name.replace(f"conv_proj_{part}.bn", f"conv_proj_{part}.1")
        if publisher == "paddlevit":
            name = name.replace("stage", "stages.")
        if publisher == "microsoft":
            array = array.T if array.ndim == 2 else array
            if name.endswith("._mean"):
                counter = name.replace("_mean", "num_batches_tracked")
                theirs[counter] = np.array(7, np.int64)
            name = name.replace("._mean", ".running_mean").replace("._variance", ".running_var")
        theirs[name] = array
    return theirs


NAMES = {
    "microsoft": "stage2.blocks.1.attn.conv_proj_k.bn.running_var",
    "paddleclas": "stage2.blocks.1.attn.conv_proj_k.bn._variance",
    "passl_v1": "backbone.stage2.blocks.1.attn.conv_proj_k.1._variance",
    "paddlevit": "stages.2.blocks.1.attn.conv_proj_k.1._variance",
}


@pytest.mark.smoke
@pytest.mark.parametrize("publisher", NAMES)
def test_files_of_every_publisher_are_read(publisher, tmp_path):
    source = small()
    theirs = under_the_names_of(publisher, source)
    cls_token = {
        "passl_v1": "backbone.stage2.cls_token",
        "paddlevit": "stages.2.cls_token",
    }.get(publisher, "stage2.cls_token")
    assert NAMES[publisher] in theirs and theirs[cls_token].shape == (1, 1, 18)
    if publisher == "microsoft":
        file = tmp_path / "x.pth"
        torch.write(str(file), theirs)
    else:
        file = tmp_path / "x.pdparams"
        paddle.save(theirs, str(file))
    network = passl.create_model("Cvt", num_classes=5, **SMALL)
    report = load_weights(network, file)
    assert report.publisher == publisher and not report.kept
    assert len(report.loaded) == len(source.state_dict())
    counters = [name for name in theirs if name.endswith("num_batches_tracked")]
    assert sorted(report.left_out) == sorted(counters)
    assert len(counters) == (18 if publisher == "microsoft" else 0)
    network.eval()
    images = pixels(2, 3, 24, 32)
    np.testing.assert_array_equal(network(images), source(images))


def test_a_file_that_lacks_the_class_token_is_refused(tmp_path):
    theirs = under_the_names_of("microsoft", small())
    del theirs["stage2.cls_token"]
    safetensors.write(str(tmp_path / "x.safetensors"), theirs, {"format": "pt"})
    with pytest.raises(PasslError, match="cls_token"):
        load_weights(small(), tmp_path / "x.safetensors")


def test_it_is_written_back_under_the_authors_names(tmp_path):
    """There and back again every weight is as it was."""
    families = {each: BACKBONES.attribute(each, "released_names", {}) for each in BACKBONES.names()}
    theirs = under_the_names_of("microsoft", small())
    torch.write(str(tmp_path / "x.pth"), theirs)
    done = convert_weights(tmp_path / "x.pth", tmp_path / "own.safetensors", families)
    assert done.source == "microsoft"
    convert_weights(tmp_path / "own.safetensors", tmp_path / "back.pth", families, "microsoft")
    with WeightFile(tmp_path / "back.pth") as back:
        lost = theirs.keys() - back.tensors.keys()
        assert all(name.endswith("num_batches_tracked") for name in lost)
        assert not back.tensors.keys() - theirs.keys()
        for name, tensor in back.tensors.items():
            np.testing.assert_array_equal(tensor.read(), theirs[name])
