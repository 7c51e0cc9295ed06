"""Fifty steps of every optimizer against the papers' algorithms, written out in NumPy.

In float64 within 1e-6, in float32 within 2e-4 (of the value, and as many hundredths of one): over
fifty steps of LAMB and LARS, whose ratios go through norms, float32 is off by up to 1e-5.
"""

import numpy as np
import pytest
from networks import (
    DECAYED,
    UNDECAYED,
    clipped,
    gradients_of_step,
    make_network,
    take_steps,
    values,
)

from passl.solver import build_optimizer
from passl.utils.errors import PasslError

STEPS = 50
RATES = [0.05 / (1 + step / 10) for step in range(STEPS)]
LAYERS = {"body.first": 0, "body.position": 0, "body.norm": 1, "body.scale": 1, "last": 2}
BOUNDS = {"float64": {"rtol": 1e-6, "atol": 1e-6}, "float32": {"rtol": 2e-4, "atol": 2e-6}}


def adam(x, g, state, step, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Kingma and Ba, arXiv 1412.6980, algorithm 1: the step without its rate."""
    m, v = state.get("m", 0 * g), state.get("v", 0 * g)
    state["m"] = m = beta1 * m + (1 - beta1) * g
    state["v"] = v = beta2 * v + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1 ** (step + 1)), v / (1 - beta2 ** (step + 1))
    return m_hat / (np.sqrt(v_hat) + epsilon)


def adamw_step(x, g, rate, decay, state, step, adapted, **given):
    """Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, its decay times the rate."""
    return x - rate * (adam(x, g, state, step, **given) + decay * x)


def lamb_step(x, g, rate, decay, state, step, adapted, epsilon=1e-6, **given):
    """You et al., arXiv 1904.00962, algorithm 2, with φ(z) = z."""
    u = adam(x, g, state, step, epsilon=epsilon, **given) + decay * x
    ratio = np.linalg.norm(x) / np.linalg.norm(u) if decay else 1.0
    return x - rate * ratio * u


def sgd_step(x, g, rate, decay, state, step, adapted, momentum=0.9, nesterov=False):
    """Sutskever et al., ICML 2013, equations 1 to 4, with the rate outside the velocity.

    Nesterov's gradient is taken at θ + μv, which is where the network's parameters stand: one step
    takes μv of before back, moves θ, and adds the new μv.
    """
    g = g + decay * x
    before = state.get("v", 0 * g)
    state["v"] = v = momentum * before + g
    if not nesterov:
        return x - rate * v
    theta = x + rate * momentum * before
    theta = theta - rate * v
    return theta - rate * momentum * v


def lars_step(
    x, g, rate, decay, state, step, adapted, momentum=0.9, trust_coefficient=0.001,
    joint_norm=False, rate_in_velocity=False,
):  # fmt: skip
    """You et al., arXiv 1708.03888, algorithm 1; SimCLR's code has both options on."""
    norm, total = np.linalg.norm, g + decay * x
    if adapted:
        below = norm(total) if joint_norm else norm(g) + decay * norm(x)
        total = trust_coefficient * norm(x) / below * total
    inside, outside = (rate, 1.0) if rate_in_velocity else (1.0, rate)
    state["v"] = v = momentum * state.get("v", 0 * g) + inside * total
    return x - outside * v


GOOGLE = {"joint_norm": True, "rate_in_velocity": True}
STEP = {"AdamW": adamw_step, "LAMB": lamb_step, "SGD": sgd_step, "LARS": lars_step}


def expected(network, name, arguments, scale, decay_of, dtype):
    """The parameters after fifty steps, float64."""
    own = {
        key: value
        for key, value in arguments.items()
        if key not in ("weight_decay", "grad_clip", "layer_decay", "groups")
    }
    x = {key: value.astype(np.float64) for key, value in values(network).items()}
    states = {key: {} for key in x}
    for step in range(STEPS):
        gradients = clipped(gradients_of_step(network, step, dtype), arguments.get("grad_clip"))
        for key, g in gradients.items():
            x[key] = STEP[name](
                x[key], g, RATES[step] * scale(key), decay_of(key), states[key], step,
                key in DECAYED, **own,
            )  # fmt: skip
    return x


def check(name, arguments, dtype, scale=lambda key: 1.0, decay_of=None):
    decay = arguments.get("weight_decay", 0.01 if name == "LAMB" else 0.0)
    decay_of = decay_of or (lambda key: decay if key in DECAYED else 0.0)
    network = make_network(dtype=dtype)
    wanted = expected(network, name, arguments, scale, decay_of, dtype)
    before = values(network)
    optimizer = build_optimizer({"name": name, **arguments}, network)
    take_steps(network, optimizer, range(STEPS), RATES, dtype)
    for key, value in values(network).items():
        assert value.dtype == dtype
        np.testing.assert_allclose(value, wanted[key], **BOUNDS[dtype], err_msg=key)
        assert np.array_equal(value, before[key]) == key.startswith("frozen")
    return optimizer


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "name, arguments",
    [
        ("AdamW", {}),
        ("AdamW", {"weight_decay": 0.3, "grad_clip": 1.5}),
        ("AdamW", {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2, "weight_decay": 0.1}),
        ("AdamW", {"weight_decay": 1, "grad_clip": 2, "beta1": 0}),
        ("LAMB", {}),
        ("LAMB", {"weight_decay": 0.3, "grad_clip": 1.5}),
        ("LAMB", {"weight_decay": 0.0}),
        ("LAMB", {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2}),
        ("SGD", {}),
        ("SGD", {"momentum": 0.0, "weight_decay": 0.3}),
        ("SGD", {"momentum": 0.8, "nesterov": True}),
        ("SGD", {"weight_decay": 0.3, "grad_clip": 1.5, "nesterov": True}),
        ("LARS", {}),
        ("LARS", {"trust_coefficient": 0.1, "weight_decay": 0.3, "grad_clip": 1.5}),
        ("LARS", {"momentum": 0.0, "trust_coefficient": 0.02}),
        ("LARS", {"weight_decay": 0.3, "trust_coefficient": 0.1, "joint_norm": True}),
        ("LARS", {"weight_decay": 0.3, "trust_coefficient": 0.1, "rate_in_velocity": True}),
        ("LARS", {"weight_decay": 0.3, "grad_clip": 1.5, "trust_coefficient": 0.1, **GOOGLE}),
    ],
)
def test_it_is_that_of_the_paper(name, arguments, dtype):
    check(name, arguments, dtype)


@pytest.mark.smoke
@pytest.mark.parametrize("name, form", [*((name, {}) for name in STEP), ("LARS", GOOGLE)])
def test_groups_and_layers_have_rates_and_decays_of_their_own(name, form):
    """Layer-wise rates, an exception by pattern, the first that matches, and clipping over all."""
    arguments = {
        **form,
        "weight_decay": 0.1,
        "grad_clip": 1.5,
        "layer_decay": 0.7,
        "groups": [
            {"parameters": ["last.weight", "*.scale"], "lr_scale": 3, "weight_decay": 0.02},
            {"parameters": "last.*", "lr_scale": 0.5},
            {"parameters": "body.position", "weight_decay": 0.2},
        ],
    }
    factors = {"last.weight": 3, "body.scale": 3, "last.bias": 0.5}
    decays = {"last.weight": 0.02, "body.scale": 0.02, "body.position": 0.2}

    def scale(key):
        return 0.7 ** (2 - LAYERS[next(k for k in LAYERS if key.startswith(k))]) * factors.get(
            key, 1
        )

    def decay_of(key):
        return decays.get(key, 0.1 if key in DECAYED else 0.0)

    optimizer = check(name, arguments, "float64", scale, decay_of)
    found = {n: (g.lr_scale, g.weight_decay) for g in optimizer.groups for n in g.names}
    assert found.keys() == DECAYED | UNDECAYED
    for key, (lr_scale, decay) in found.items():
        assert lr_scale == pytest.approx(scale(key)) and decay == decay_of(key)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"layer_decay": 0.0}, r"layer_decay lies in \(0, 1\]"),
        ({"layer_decay": 1.1}, r"layer_decay lies in \(0, 1\]"),
        ({"groups": [{"parameters": "last.wieght"}]}, "matches none.*did you mean 'last.weight'"),
        ({"groups": [{"parameters": "frozen.*"}]}, "matches none of the trainable"),
        ({"groups": [{"lr_scale": 2}]}, "needs 'parameters'"),
        ({"groups": [{"parameters": "*", "lr_scales": 2}]}, "did you mean 'lr_scale'"),
        ({"groups": [{"parameters": "*", "lr_scale": -1}]}, "lr_scale is at least 0"),
        ({"groups": [{"parameters": "*", "lr_scale": "two"}]}, "lr_scale of a parameter group is"),
        ({"groups": [{"parameters": "*", "weight_decay": -1}]}, "weight_decay is at least 0"),
    ],
)
def test_groups_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(PasslError, match=message):
        build_optimizer({"name": "AdamW", **arguments}, make_network())


def test_layers_without_depths_cannot_have_rates_of_their_own():
    from paddle import nn

    with pytest.raises(PasslError, match="does not say how deep"):
        build_optimizer({"name": "SGD", "layer_decay": 0.5}, nn.Linear(2, 2))


def test_zeros_do_not_stop_lars():
    """A parameter that is all zeros, such as a head's weights at the start, gets plain momentum."""
    network = make_network()
    network.last.weight.set_value(np.zeros([4, 2], np.float32))
    take_steps(network, build_optimizer({"name": "LARS"}, network), [0])
    gradient = gradients_of_step(network, 0)["last.weight"]
    np.testing.assert_allclose(network.last.weight.numpy(), -0.05 * gradient, rtol=1e-6)
