"""SimCLR, MoCo and BYOL step by step, against their formulas written down in NumPy."""

import copy
import logging

import numpy as np
import paddle
import pytest
from rounding_autocast import RoundingAutocast
from self_supervised import BACKBONES, METHODS, method, views
from stepping import stepping

from passl.engine.execution import recompute_blocks
from passl.modeling.architectures.byol import BYOL
from passl.modeling.heads import build_head
from passl.modeling.layers import BatchNorm1D, BatchNorm2D
from passl.modeling.layers.key_queue import KeyQueue
from passl.utils.errors import PasslError

RATE = 1 / 16


def parameters(network, prefix=""):
    return {
        name[len(prefix) :]: tensor.numpy()
        for name, tensor in network.named_parameters()
        if name.startswith(prefix)
    }


def normalised(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


# ------------------------------------------------ every method


@pytest.mark.smoke
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", METHODS)
def test_any_backbone_learns(name, backbone):
    """20 steps on one batch; MoCo's queue is full of keys by then."""
    network = method(name, backbone)
    step, _ = stepping(network, 8, rate=0.02)
    batch = views(8)
    losses = [step(number, batch).losses[0].item() for number in range(20)]
    assert np.isfinite(losses).all()
    # MoCo's falls once real keys have taken the place of the random ones, after 4 steps.
    assert losses[-1] < 0.97 * (max(losses[4:8]) if name == "MoCo" else losses[0]), losses
    if name == "MoCo":
        assert network.queue.pointer.item() == 20 * 8 % 32


@pytest.mark.parametrize("name", METHODS)
def test_what_learns_and_what_follows(name):
    """Every parameter has a gradient but those of the twin; running statistics move in both."""
    network = method(name)
    before = {key: tensor.numpy().copy() for key, tensor in network.state_dict().items()}
    network(views(8))["loss"].backward()
    for key, parameter in network.named_parameters():
        if key.startswith("twin."):
            assert parameter.stop_gradient and parameter.grad is None
            np.testing.assert_array_equal(parameter.numpy(), before[key])
        else:
            assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, key
    for key, tensor in network.state_dict().items():
        if key.endswith(("_mean", "_variance")):
            assert np.abs(tensor.numpy() - before[key]).max() > 0, key


@pytest.mark.parametrize("name", METHODS)
def test_in_evaluation_it_is_its_backbone(name):
    network = method(name)
    network.eval()
    image = views(4)["image"]
    outputs = network({"image": image})
    assert set(outputs) == {"features"}
    np.testing.assert_array_equal(outputs["features"].numpy(), network.backbone(image).numpy())


@pytest.mark.parametrize("name", METHODS)
def test_a_probe_changes_nothing_but_itself(name):
    """The value of the loss and the gradients of all else are those of a network without."""
    found = {}
    labels = paddle.to_tensor([0, 1, 2, 0, 1, 2, 0, 1])
    for probe in (None, {"num_classes": 3, "init": "normal"}):
        network = method(name, dtype="float64", probe=probe)
        outputs = network({**views(8, dtype="float64"), "label": labels})
        outputs["loss"].backward()
        gradients = {
            key: parameter.grad.numpy()
            for key, parameter in network.named_parameters()
            if parameter.grad is not None
        }
        found[probe is None] = outputs, gradients
    plain, probed = found[True], found[False]
    assert plain[0]["loss"].item() == pytest.approx(probed[0]["loss"].item(), rel=1e-14)
    assert set(probed[1]) - set(plain[1]) == {"probe.fc.weight", "probe.fc.bias"}
    for key, gradient in plain[1].items():
        np.testing.assert_array_equal(gradient, probed[1][key], err_msg=key)
    # The probe's own, by the formulas of a softmax regression.
    network = method(name, dtype="float64", probe={"num_classes": 3, "init": "normal"})
    seen = []
    network.probe.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].numpy()))
    weight, bias = (getattr(network.probe.fc, key).numpy() for key in ("weight", "bias"))
    outputs = network({**views(8, dtype="float64"), "label": labels})
    logits = seen[0] @ weight + bias
    targets = np.eye(3)[labels.numpy()]
    expected = -(log_softmax(logits) * targets).sum(1).mean()
    assert outputs["scalars"]["probe_loss"].item() == pytest.approx(expected, rel=1e-12)
    share = 100 * (logits.argmax(1) == labels.numpy()).mean()
    assert outputs["scalars"]["probe_top1"].item() == pytest.approx(share)
    gradient = seen[0].T @ (np.exp(log_softmax(logits)) - targets) / 8
    np.testing.assert_allclose(probed[1]["probe.fc.weight"], gradient, atol=1e-12)
    assert network.num_classes == 3 and not hasattr(method(name), "num_classes")
    network.eval()
    assert network(views(4, dtype="float64"))["logits"].shape == [4, 3]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_sixteen_bits_are_widened(name, level, monkeypatch):
    """What compares embeddings is computed in float32: its loss is that of float32's embeddings.

    The embeddings themselves are products of 16 bits, so that the two agree to their digits only;
    a softmax of similarities that were rounded again after the division by T would not.
    """
    network = method(name, T=0.01) if name != "BYOL" else method(name)
    embeddings = []
    for head in [network.projector, *([network.predictor] if name == "BYOL" else [])]:
        head.register_forward_post_hook(lambda *arguments: embeddings.append(arguments[-1]))
    autocast = RoundingAutocast(monkeypatch)
    with paddle.amp.auto_cast(level=level, dtype="bfloat16"):
        outputs = network(views(8))
    del autocast
    assert outputs["loss"].dtype == paddle.float32
    if name == "SimCLR":
        z = normalised(embeddings[0].astype("float32").numpy().astype(np.float64))
        similarity = z @ z.T / 0.01 - 1e9 * np.eye(16)
        partner = (np.arange(16) + 8) % 16
        expected = -2 * log_softmax(similarity)[np.arange(16), partner].mean()
        assert outputs["loss"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_a_skipped_step_leaves_twin_and_queue_alone(name):
    network = method(name)
    step, _ = stepping(network, 8, rate=RATE)
    step(0, views(8))
    before = {key: tensor.numpy().copy() for key, tensor in network.state_dict().items()}
    batch = views(8, seed=1)
    batch["image"][0] = float("nan")  # so that keys are numbers
    assert not bool(step(1, batch).finite)
    for key, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[key], err_msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_a_collapse_is_told(name):
    network = method(name)
    assert network.warning({"spread": 0.9}, 0.5) is None
    assert network.warning({"spread": 0.1}, 0.05) is None, "as that of a fresh network is"
    assert "collapse" in network.warning({"spread": 0.1}, 0.5)
    for parameter in network.projector.fcs[-1].parameters():
        parameter.set_value(paddle.zeros(parameter.shape))
    if name != "SimCLR":  # whose last norm makes noise of nothing
        assert network(views(8))["scalars"]["spread"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_one_image_a_process_is_refused(name):
    with pytest.raises(PasslError, match="batch_size to 2"):
        method(name).check_batches(100, 1, 2)
    method(name).check_batches(100, 8, 2)


# ------------------------------------------------ SimCLR


def test_simclr_sees_both_views_as_one_batch():
    """Its loss is the formula's, of embeddings whose batch norms saw 2N images."""
    network = method("SimCLR", dtype="float64")
    batch = views(6, dtype="float64")
    both = np.concatenate([batch["image"].numpy(), batch["image_1"].numpy()])
    twin = copy.deepcopy(network)
    z = normalised(twin.projector(twin.backbone(paddle.to_tensor(both))).numpy())
    similarity = z @ z.T / 0.5
    np.fill_diagonal(similarity, -np.inf)
    partner = (np.arange(12) + 6) % 12
    expected = -log_softmax(similarity)[np.arange(12), partner].mean()
    outputs = network(batch)
    assert outputs["loss"].item() == pytest.approx(2 * expected, rel=1e-12)
    right = 100 * (similarity.argmax(1) == partner).mean()
    assert outputs["scalars"]["contrast_top1"].item() == pytest.approx(right)
    swapped = {"image": batch["image_1"], "image_1": batch["image"]}
    assert network(swapped)["loss"].item() == pytest.approx(2 * expected, rel=1e-12)


def test_the_authors_projector():
    """Three layers without biases; the last norm has a scale and no offset."""
    network = method("SimCLR", projector={"hidden": 2048, "out": 128, "layers": 3})
    learned = {key: list(p.shape) for key, p in network.projector.named_parameters()}
    assert learned == {
        "fcs.0.weight": [network.backbone.num_features, 2048],
        "fcs.1.weight": [2048, 2048],
        "fcs.2.weight": [2048, 128],
        **{f"norms.{i}.{key}": [2048] for i in (0, 1) for key in ("weight", "bias")},
        "norms.2.weight": [128],
    }


# Of the papers with a ResNet-50's 2,048 features.
@pytest.mark.parametrize(
    "name, part, arguments, count",
    [
        ("SimCLR", "projector", {}, 4460672),
        ("SimCLR", "projector", {"layers": 3}, 8659072),
        ("MoCo", "projector", {}, 27966656 - 23508032),
        ("MoCo", "projector", {"layers": 1}, 23770304 - 23508032),
        ("BYOL", "projector", {}, 9449472),
        ("BYOL", "predictor", {}, 2109440),
    ],
)
def test_published_parameter_counts(name, part, arguments, count):
    from passl.modeling.architectures import ARCHITECTURES

    defaults = ARCHITECTURES.attribute(name, "default_projector", None)
    width = 256 if part == "predictor" else 2048
    head = build_head({"name": "ProjectionHead", **defaults, **arguments}, in_channels=width)
    assert sum(p.size for p in head.parameters()) == count


def test_how_heads_begin():
    """Google's N(0, 0.01), torch's uniform within 1 / √inputs, DeepMind's truncated normal."""
    paddle.seed(0)
    for init, std, largest in (
        ("normal", 0.01, None),
        ("torch", 400**-0.5 / 3**0.5, 400**-0.5),
        ("truncated_normal", 0.8796 * 400**-0.5, 2 * 400**-0.5),
    ):
        head = build_head({"name": "ProjectionHead", "hidden": 500, "init": init}, in_channels=400)
        weight = head.fcs[0].weight.numpy()
        assert weight.std() == pytest.approx(std, rel=0.01)
        assert largest is None or np.abs(weight).max() <= largest * 1.0001
        if init == "torch":
            assert np.abs(head.fcs[0].bias.numpy()).max() == pytest.approx(1 / 20, rel=0.05)
        else:
            assert not head.fcs[0].bias.numpy().any()
        assert (head.norms[0].weight.numpy() == 1).all()


@pytest.mark.parametrize("out_norm", ["scale", "plain", "affine"])
def test_the_norm_of_the_output(out_norm):
    head = build_head(
        {"name": "ProjectionHead", "hidden": 8, "out": 4, "out_norm": out_norm}, in_channels=5
    )
    for layer in head.norms[-1:]:
        for parameter in layer.parameters():
            parameter.set_value(parameter + 1)
    found = head(paddle.randn([64, 5]) * 3 + 1).numpy()
    shift, scale = {"scale": (0, 2), "plain": (0, 1), "affine": (1, 2)}[out_norm]
    np.testing.assert_allclose(found.mean(0), shift, atol=1e-5)
    np.testing.assert_allclose(found.std(0), scale, rtol=1e-3)


# ------------------------------------------------ MoCo


def moco_step(network, twin, queue, batch):
    """One step of MoCo's authors as NumPy has it, but for the forward passes of the network.

    Returns:
        the loss, and the keys.
    """
    q = normalised(network.projector(network.backbone(batch["image"])).numpy())
    k = normalised(twin.projector(twin.backbone(batch["image_1"])).numpy())
    logits = np.concatenate([(q * k).sum(1, keepdims=True), q @ queue.T], axis=1) / 0.25
    return -log_softmax(logits)[:, 0].mean(), k


def test_moco_step_by_step():
    """Loss, twin, queue and pointer of five steps: negatives are those before the batch's keys."""
    network = method("MoCo", dtype="float64", K=20)
    step, _ = stepping(network, 4, rate=RATE)
    shadow = copy.deepcopy(network)  # runs beside it, and never learns by itself
    twin = parameters(network, "twin.")
    queue, pointer = network.queue.keys.numpy().copy(), 0
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-6)
    for number in range(6):
        batch = views(4, seed=number, dtype="float64")
        shadow.set_state_dict(network.state_dict())
        expected, keys = moco_step(shadow, shadow.twin, queue, batch)
        result = step(number, batch)
        assert result.losses[0].item() == pytest.approx(expected, rel=1e-10), number
        queue[pointer : pointer + 4] = keys
        pointer = (pointer + 4) % 20
        np.testing.assert_allclose(network.queue.keys.numpy(), queue, atol=1e-12)
        assert network.queue.pointer.item() == pointer
        own = parameters(network)
        for key, value in twin.items():
            twin[key] = 0.875 * value + 0.125 * own[key]
        for key, value in parameters(network, "twin.").items():
            np.testing.assert_allclose(value, twin[key], atol=1e-12, err_msg=key)
            moved = np.abs(own[key] - value).max()
            assert moved > 0, f"{key} has not learned"


def test_the_twin_begins_as_a_copy_and_normalises_by_its_batch():
    network = method("MoCo", dtype="float64")
    own = network.state_dict()
    for key, tensor in network.twin.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), own[key].numpy())
    images = views(8, dtype="float64")["image"] * 5 + 3
    network.eval()
    network.train()
    expected = network.projector(network.backbone(images)).numpy()
    np.testing.assert_allclose(network.twin(images).numpy(), expected, atol=1e-12)
    network.eval()
    assert np.abs(network.twin(images).numpy() - expected).max() > 1e-3


def test_start_twin():
    for name in ("MoCo", "BYOL"):
        network = method(name)
        for tensor in network.backbone.state_dict().values():
            tensor.set_value(tensor + 1)
        network.start_twin()
        for key, tensor in network.twin.state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), network.state_dict()[key].numpy())


def test_a_frozen_part_stays_the_same_in_the_twin():
    network = method("MoCo")
    network.freeze(["backbone"])
    before = parameters(network, "twin.backbone.")
    step, _ = stepping(network, 8, rate=RATE)
    step(0, views(8))
    for key, value in parameters(network, "twin.backbone.").items():
        np.testing.assert_array_equal(value, before[key])


def test_a_queue_goes_round():
    queue = KeyQueue(5, 2)
    rows = np.arange(12.0, dtype=np.float32).reshape(6, 2)
    true = paddle.to_tensor(True)
    queue.enqueue(paddle.to_tensor(rows[:3]), true)
    queue.enqueue(paddle.to_tensor(rows[3:]), true)
    np.testing.assert_array_equal(queue.keys.numpy(), rows[[5, 1, 2, 3, 4]])
    assert queue.pointer.tolist() == [1]
    for keys, finite in ((rows[:2] * np.nan, True), (rows[:2], False)):
        queue.enqueue(paddle.to_tensor(keys), paddle.to_tensor(finite))
        np.testing.assert_array_equal(queue.keys.numpy(), rows[[5, 1, 2, 3, 4]])
        assert queue.pointer.tolist() == [1]
    assert set(queue.state_dict()) == {"keys", "pointer"}


@pytest.mark.parametrize("kind, shape", [(BatchNorm2D, (6, 3, 2, 2)), (BatchNorm1D, (6, 3))])
def test_a_batch_norm_of_parts(kind, shape):
    """Each third by its own statistics, the running ones by the mean over the thirds."""
    x = np.random.default_rng(0).normal(2, 3, shape)
    layer = kind(3, momentum=0.75)
    layer.to(dtype="float64")
    layer.splits = 3
    parts = np.stack(np.split(x, 3))
    axes = tuple(axis + 1 for axis in range(x.ndim) if axis != 1)
    mean, variance = parts.mean(axes, keepdims=True), parts.var(axes, keepdims=True)
    expected = ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(shape)
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(layer._mean.numpy(), 0.25 * mean.mean(0).ravel(), rtol=1e-10)
    running = 0.75 + 0.25 * variance.mean(0).ravel()
    np.testing.assert_allclose(layer._variance.numpy(), running, rtol=1e-10)
    with pytest.raises(PasslError, match="equal parts"):
        layer(paddle.to_tensor(x[:4]))
    layer.eval()
    layer(paddle.to_tensor(x[:4]))


def test_split_batch_norms_shuffle_the_keys():
    """Keys come back in the order of their images; the order is drawn anew for each step."""
    network = method("MoCo", dtype="float64", split_batch_norm=2)
    batch = views(8, dtype="float64")
    orders = []
    draw = network._order
    network._order = lambda count: orders.append(draw(count)) or orders[-1]
    step, _ = stepping(network, 8)
    for number in (0, 0, 1):
        twin = copy.deepcopy(network.twin)
        start = network.queue.pointer.item()
        step(number, batch)
        order = orders[-1].numpy()
        assert sorted(order) == list(range(8))
        expected = np.empty((8, 6))
        expected[order] = normalised(
            twin(paddle.to_tensor(batch["image_1"].numpy()[order])).numpy()
        )
        found = network.queue.keys.numpy()[start : start + 8]
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (orders[0].numpy() == orders[1].numpy()).all(), "a function of the step"
    assert (orders[0].numpy() != orders[2].numpy()).any()
    assert method("MoCo")._order(8) is None, "nothing to shuffle for"
    mixer = method("MoCo", "MlpMixer", split_batch_norm=2)
    assert mixer._order(8) is None


@pytest.mark.parametrize(
    "changes, batch, said",
    [
        ({"K": 100}, (1000, 16, 2), "set -o model.K=96"),
        ({"K": 8}, (1000, 16, 1), "set -o model.K=16"),
        ({"split_batch_norm": 3}, (1000, 16, 1), "no 3 equal parts"),
        ({"split_batch_norm": 8}, (1000, 8, 1), "batch_size to 16 at least"),
    ],
    ids=map(str, range(4)),
)
def test_batches_that_do_not_fit_moco(changes, batch, said):
    with pytest.raises(PasslError, match=said):
        method("MoCo", **changes).check_batches(*batch)


def test_a_queue_longer_than_the_training_set(caplog):
    with caplog.at_level(logging.WARNING):
        method("MoCo").check_batches(31, 8, 1)
    assert "negatives of itself" in caplog.text


# ------------------------------------------------ BYOL


def test_byol_step_by_step():
    """Loss and twin of three steps: the twin follows after the step, by that step's momentum."""
    network = method("BYOL", dtype="float64")
    step, _ = stepping(network, 6, rate=RATE, total=4)
    shadow = copy.deepcopy(network)
    twin = parameters(network, "twin.")
    for number in range(3):
        batch = views(6, seed=number, dtype="float64")
        shadow.set_state_dict(network.state_dict())
        p, z = [], []
        for view in (batch["image"], batch["image_1"]):  # each by itself
            p.append(normalised(shadow.predictor(shadow.projector(shadow.backbone(view))).numpy()))
            z.append(normalised(shadow.twin.projector(shadow.twin.backbone(view)).numpy()))
        cosines = (p[0] * z[1]).sum(1) + (p[1] * z[0]).sum(1)
        result = step(number, batch)
        assert result.losses[0].item() == pytest.approx((4 - 2 * cosines).mean(), rel=1e-10)
        tau = 1 - 0.25 * (np.cos(np.pi * number / 4) + 1) / 2
        own = parameters(network)
        for key, value in parameters(network, "twin.").items():
            twin[key] = tau * twin[key] + (1 - tau) * own[key]
            np.testing.assert_allclose(value, twin[key], atol=1e-12, err_msg=key)


def test_no_gradient_goes_through_the_target():
    """The gradient by finite differences of the loss with targets held fast."""
    network = method("BYOL", "MlpMixer", dtype="float64")
    batch = views(4, dtype="float64")
    network(batch)["loss"].backward()
    weight = network.projector.fcs[0].weight
    gradient = weight.grad.numpy()
    values = weight.numpy().copy()
    for place in ((0, 0), (3, 5)):
        losses = []
        for change in (1e-5, -1e-5):
            moved = values.copy()
            moved[place] += change
            weight.set_value(moved)
            losses.append(network(batch)["loss"].item())
        slope = (losses[0] - losses[1]) / 2e-5
        assert gradient[place] == pytest.approx(slope, rel=1e-5)
        weight.set_value(values)


def test_a_constant_tau():
    network = method("BYOL", constant_tau=True)
    taus = []
    network.twin.update = lambda weights, m, finite: taus.append(m)
    for step in (0, 5):
        network.after_step(step, 10, {}, paddle.to_tensor(True))
    assert taus == [0.75, 0.75]


def test_a_predictor_of_another_width_is_refused():
    with pytest.raises(PasslError, match="leave predictor.out out"):
        method("BYOL", predictor={"out": 7})


def test_arguments_out_of_bounds():
    for name, changes, said in (
        ("SimCLR", {"T": 0.0}, "T, the temperature"),
        ("MoCo", {"m": 1.5}, "m, the share"),
        ("MoCo", {"K": 0}, "K is at least 1"),
        ("BYOL", {"tau": -0.1}, "tau, the share"),
        ("SimCLR", {"projector": {"out_norm": "both"}}, "out_norm is"),
        ("SimCLR", {"projector": {"init": "both"}}, "init is one of"),
        ("SimCLR", {"projector": {"layers": 0}}, "layers must be"),
        ("SimCLR", {"projector": {"hiden": 3}}, "hiden"),
    ):
        with pytest.raises(PasslError, match=said):
            method(name, **changes)
    assert isinstance(method("BYOL"), BYOL)


# ------------------------------------------------ how it is run


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="PaddlePaddle 2 needs a GPU for it")
@pytest.mark.parametrize("name", METHODS)
def test_recomputed_it_is_the_same(name):
    """Also the twin, which keeps nothing in either case."""
    found = []
    for recomputing in (False, True):
        network = method(name, "VisionTransformer")
        if recomputing:
            recompute_blocks(network)
        loss = network(views(8))["loss"]
        loss.backward()
        gradients = [p.grad.numpy() for p in network.parameters() if p.grad is not None]
        found.append([loss.numpy(), *gradients])
    for plain, recomputed in zip(*found):
        np.testing.assert_array_equal(plain, recomputed)


def test_simclr_as_a_static_program():
    plain, static = (method("SimCLR", "VisionTransformer") for _ in range(2))
    static.forward = paddle.jit.to_static(static.forward, full_graph=True)
    losses = [network(views(8))["loss"] for network in (plain, static)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for loss in losses:
        loss.backward()
    for (key, one), (_, other) in zip(plain.named_parameters(), static.named_parameters()):
        np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), atol=1e-5, err_msg=key)
