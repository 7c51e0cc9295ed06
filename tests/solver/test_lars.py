"""LARS as SimCLR, BYOL and You et al. have it, and rates that no schedule changes.

The numbers are two steps of p = sin(1 + 2i + 3j) with g₁ = 0.1 cos(1 + 3i + 2j) and
g₂ = 0.1 sin(2 + i + 4j), computed in float64 from the formulas in the code of SimCLR and by running
those of MoCo v3 ("DeepMind"'s) and lightly ("You").
"""

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.solver import build_optimizer, build_schedule
from passl.utils.errors import PasslError

ROWS, COLUMNS = np.mgrid[:3, :2]
START = np.sin(1 + 2 * ROWS + 3 * COLUMNS)
GRADIENTS = 0.1 * np.cos(1 + 3 * ROWS + 2 * COLUMNS), 0.1 * np.sin(2 + ROWS + 4 * COLUMNS)
FORMS = {
    "Google": {"joint_norm": True, "rate_in_velocity": True},
    "DeepMind": {"joint_norm": True},
    "You": {},
}


class Layer(nn.Layer):
    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([3, 2])
        self.bias = self.create_parameter([2])
        self.probe = self.create_parameter([2, 2])


def stepped(rates, gradients=GRADIENTS, skipped=None, **arguments):
    """Returns the network after some steps: the bias' gradient is 1, the probe's is 2."""
    layer = Layer()
    layer.to(dtype="float64")
    layer.weight.set_value(START)
    layer.bias.set_value(np.array([1.0, 2.0]))
    layer.probe.set_value(np.ones((2, 2)))
    optimizer = build_optimizer({"name": "LARS", **arguments}, layer)
    for step, (rate, gradient) in enumerate(zip(rates, gradients)):
        bad = float("nan") if step == skipped else 0.0
        (layer.weight * paddle.to_tensor(gradient + bad)).sum().backward()
        (layer.bias.sum() + 2 * layer.probe.sum()).backward()
        optimizer.step(rate)
    return layer


@pytest.mark.smoke
@pytest.mark.parametrize(
    "form, rates, expected",
    [
        ("Google", (4.8, 4.8), (0.83238346, -0.74722485)),
        ("DeepMind", (4.8, 4.8), (0.83238346, -0.74722485)),
        ("You", (4.8, 4.8), (0.83238352, -0.74722494)),
        ("Google", (2.4, 4.8), (0.83461054, -0.75130177)),
        ("DeepMind", (2.4, 4.8), (0.83355676, -0.74937095)),
        ("You", (2.4, 4.8), (0.83355681, -0.74937102)),
    ],
)
def test_published_forms(form, rates, expected):
    layer = stepped(rates, weight_decay=1e-6, **FORMS[form])
    # Paddle rounds momentum and rate to float32.
    np.testing.assert_allclose(layer.weight.numpy()[0], expected, atol=2e-8)
    # Biases get plain momentum, of the rate inside or outside of the velocity.
    inside = form == "Google"
    velocity = rates[0] * 0.9 + rates[1] if inside else rates[1] * 1.9
    moved = 1.0 - rates[0] - velocity
    np.testing.assert_allclose(layer.bias.numpy()[0], moved, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_exemptions(form):
    """What is not adapted takes the gradient as it is, with its decay if it has one."""
    groups = [{"parameters": "probe", "weight_decay": 0.0, "adapt": False}]
    layer = stepped((0.5,), weight_decay=0.25, groups=groups, **FORMS[form])
    np.testing.assert_allclose(layer.probe.numpy(), 1 - 0.5 * 2)
    groups[0]["weight_decay"] = 0.25
    layer = stepped((0.5,), weight_decay=0.0, groups=groups, **FORMS[form])
    np.testing.assert_allclose(layer.probe.numpy(), 1 - 0.5 * (2 + 0.25))
    adapted = stepped((0.5,), weight_decay=0.0, **FORMS[form]).probe.numpy()
    np.testing.assert_allclose(adapted, 1 - 0.5 * 0.001 * 2 / 4 * 2)


@pytest.mark.parametrize("form", FORMS)
def test_a_skipped_step_adds_nothing_to_the_velocity(form):
    once = stepped((1.0,), GRADIENTS[1:], weight_decay=0.25, **FORMS[form])
    twice = stepped((1.0, 1.0), weight_decay=0.25, skipped=0, **FORMS[form])
    np.testing.assert_allclose(twice.weight.numpy(), once.weight.numpy(), atol=1e-12)


def test_a_warm_up_differs_between_the_forms():
    """Rates 0, 0.48, 0.96: the third step of 0.00258 outside is 0.00139 inside of the velocity."""
    moved = {}
    for form in ("Google", "DeepMind"):
        layers = [
            stepped((0.0, 0.48, 0.96)[:count], GRADIENTS[:1] * 3, **FORMS[form]) for count in (2, 3)
        ]
        moved[form] = np.abs(layers[1].weight.numpy() - layers[0].weight.numpy()).max()
    local = 0.001 * np.linalg.norm(START) / np.linalg.norm(GRADIENTS[0])
    largest = local * np.abs(GRADIENTS[0]).max()
    # Velocity inside: 0.9 · 0.48 + 0.96; outside: 0.96 · (0.81 + 0.9 + 1).
    assert moved["Google"] == pytest.approx(largest * 1.392, rel=2e-3)
    assert moved["DeepMind"] == pytest.approx(largest * 2.6016, rel=2e-3)


NAMES = [{"name": name} for name in ("SGD", "AdamW", "LAMB", "LARS")]
CONFIGS = [*NAMES, {"name": "LARS", **FORMS["Google"]}]


def learner(cfg, **arguments):
    """Returns a network and its optimizer."""
    paddle.seed(0)
    layer = Layer()
    return layer, build_optimizer({"weight_decay": 0.1, **cfg, **arguments}, layer)


def take(layer, optimizer, rates, begin=0):
    """Takes steps whose gradients are known; returns the parameters after them."""
    for step, rate in enumerate(rates, begin):
        loss = sum((p * (k + 1 + step)).sum() for k, p in enumerate(layer.parameters()))
        loss.backward()
        optimizer.step(rate)
    return {key: parameter.numpy() for key, parameter in layer.named_parameters()}


@pytest.mark.smoke
@pytest.mark.parametrize("cfg", CONFIGS, ids=str)
def test_a_group_with_a_rate_of_its_own(cfg):
    """It moves as a run with that rate would, also where the schedule's rate is zero."""
    rates = (0.0, 0.125, 0.0625)
    groups = [{"parameters": "probe", "lr": 0.25}, {"parameters": "bias", "lr_scale": 0.5}]
    found = take(*learner(cfg, groups=groups), rates)
    own = take(*learner(cfg), (0.25,) * 3)
    np.testing.assert_allclose(found["probe"], own["probe"], rtol=1e-5)
    others = take(*learner(cfg, groups=groups[1:]), rates)
    for key in ("weight", "bias"):
        np.testing.assert_allclose(found[key], others[key], rtol=1e-5, atol=1e-7)


@pytest.mark.smoke
@pytest.mark.parametrize("cfg", CONFIGS, ids=str)
@pytest.mark.parametrize("saved_at", [1, 2])
def test_rates_of_their_own_continue_exactly(cfg, saved_at):
    """Also from within the warm-up, by a second network of the process."""
    rates, groups = (0.0, 0.1, 0.2, 0.1), [{"parameters": "probe", "lr": 0.25}]
    whole = take(*learner(cfg, groups=groups), rates)
    layer, optimizer = learner(cfg, groups=groups)
    weights, state = take(layer, optimizer, rates[:saved_at]), optimizer.state_dict()
    layer, optimizer = learner(cfg, groups=groups)
    layer.set_state_dict({name: paddle.to_tensor(array) for name, array in weights.items()})
    optimizer.load_state_dict(state)
    for name, array in take(layer, optimizer, rates[saved_at:], saved_at).items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)


def test_a_rate_of_zero_holds_parameters_still():
    groups = [{"parameters": "probe", "lr": 0.0}]
    before = take(*learner(NAMES[0]), ())
    after = take(*learner(NAMES[0], groups=groups), (0.5,))
    np.testing.assert_array_equal(after["probe"], before["probe"])
    assert (after["bias"] != before["bias"]).all()


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"groups": [{"parameters": "probe", "lr": -1.0}]}, "lr of a parameter group is a rate"),
        ({"groups": [{"parameters": "probe", "lr": 1.0, "lr_scale": 2.0}]}, "in the place of"),
        ({"groups": [{"parameters": "probe", "adapt": 3}]}, "adapt of a parameter group"),
        ({"name": "SGD", "groups": [{"parameters": "probe", "adapt": False}]}, "SGD adapts its"),
    ],
)
def test_refusals(arguments, said):
    with pytest.raises(PasslError, match=said):
        build_optimizer({"name": "LARS", **arguments}, Layer())


@pytest.mark.smoke
def test_mocos_decay_reaches_norms_and_biases():
    """torch.optim.SGD's weight_decay, of all parameters; the running statistics are none."""
    paddle.seed(0)
    network = nn.Sequential(nn.Conv2D(3, 2, 3), nn.BatchNorm2D(2), nn.Flatten(), nn.Linear(2, 2))
    network[1].bias.set_value(np.array([2.0, -1.0], np.float32))
    before = {name: array.numpy() for name, array in network.state_dict().items()}
    groups = [{"parameters": "*", "weight_decay": 0.25}]
    optimizer = build_optimizer({"name": "SGD", "weight_decay": 0.125, "groups": groups}, network)
    assert [(g.weight_decay, len(g.names)) for g in optimizer.groups] == [(0.25, 6)]
    sum((p * 0.5).sum() for p in network.parameters() if not p.stop_gradient).backward()
    optimizer.step(0.5)
    for name, array in network.state_dict().items():
        moved = 0.0 if "_mean" in name or "_variance" in name else 0.5 * (0.5 + 0.25 * before[name])
        np.testing.assert_allclose(array.numpy(), before[name] - moved, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "section, batch, epochs, steps, expected",
    [
        # SimCLR: 0.075 · √4096; BYOL: 0.45 · 4096 / 256 at 100 epochs.
        ({"learning_rate": 0.075, "reference_batch_size": 1, "scaling": "sqrt"}, 4096, 100, 312,
         {0: 0.0, 1560: 2.4, 3120: 4.8, 17160: 2.4}),
        ({"learning_rate": 0.45, "reference_batch_size": 256}, 4096, 100, 312, {3120: 7.2}),
        # MoCo v2: half a cosine by whole epochs: cos(π · 100 / 200) at epoch 100.
        ({"learning_rate": 0.03, "reference_batch_size": 256, "warmup_epochs": 0,
          "per_epoch": True}, 256, 200, 5004,
         {0: 0.03, 5003: 0.03, 5004: 0.015 * (1 + np.cos(np.pi / 200)), 100 * 5004 + 77: 0.015}),
    ],
)  # fmt: skip
def test_published_rates(section, batch, epochs, steps, expected):
    cfg = {"name": "Cosine", "warmup_epochs": 10, **section}
    schedule = build_schedule(cfg, epochs * steps, steps, batch)
    for step, rate in expected.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-12, abs=1e-15), step
