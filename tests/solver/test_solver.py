import math

import numpy as np
import paddle
import pytest
from networks import (
    DECAYED,
    UNDECAYED,
    Network,
    clipped,
    gradients_of_step,
    make_network,
    take_steps,
    values,
)
from paddle import nn

from passl.solver import build_optimizer, build_schedule
from passl.utils.errors import PasslError

NAMES = ("AdamW", "LAMB", "SGD", "LARS")


# ---------------------------------------------------------------- what all share


@pytest.mark.parametrize("name", NAMES)
def test_a_step_at_rate_zero_or_with_only_decay(name):
    network = make_network()
    before = values(network)
    take_steps(network, build_optimizer({"name": name, "weight_decay": 0.5}, network), [0], [0.0])
    after = values(network)
    for key in before:
        np.testing.assert_array_equal(after[key], before[key])


def test_decay_leaves_biases_norms_and_named_parameters_alone():
    network = make_network()
    before = values(network)
    optimizer = build_optimizer({"name": "AdamW", "weight_decay": 0.5}, network)
    sum((p * 0.0).sum() for p in network.parameters() if not p.stop_gradient).backward()
    optimizer.step(0.1)
    after = values(network)
    for name in DECAYED:
        np.testing.assert_allclose(after[name], before[name] * 0.95, rtol=1e-6)
    for name in UNDECAYED | {"frozen.weight", "frozen.bias"}:
        np.testing.assert_array_equal(after[name], before[name])
    assert DECAYED | UNDECAYED | {"frozen.weight", "frozen.bias"} == set(before)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_cleared_and_a_parameter_without_one_stays(name):
    network = make_network()
    before = values(network)
    optimizer = build_optimizer({"name": name, "grad_clip": 1.0, "weight_decay": 0.1}, network)
    network.body.first.weight.sum().backward()
    optimizer.step(0.1)
    after = values(network)
    assert not np.array_equal(after["body.first.weight"], before["body.first.weight"])
    np.testing.assert_array_equal(after["last.weight"], before["last.weight"])
    gradient = network.body.first.weight.grad
    assert gradient is None or not gradient.numpy().any()


@pytest.mark.parametrize("grad_clip", [0, 0.0, -1.0, float("nan")])
def test_a_clipping_norm_is_above_zero(grad_clip):
    with pytest.raises(PasslError, match="grad_clip"):
        build_optimizer({"name": "AdamW", "grad_clip": grad_clip}, make_network())


@pytest.mark.parametrize(
    "cfg, words",
    [
        ({"name": "AdamW", "beta1": 1.0}, "beta1"),
        ({"name": "AdamW", "beta2": -0.1}, "beta2"),
        ({"name": "AdamW", "epsilon": -1.0}, "epsilon"),
        ({"name": "AdamW", "weight_decay": -0.1}, "weight_decay"),
        ({"name": "SGD", "momentum": -0.5}, "momentum"),
        ({"name": "SGD", "momentun": 0.5}, "did you mean 'momentum'"),
        ({"name": "Adam"}, "did you mean 'AdamW'"),
        ({"name": "LAMB", "beta2": 1.0}, "beta2"),
        ({"name": "LARS", "trust_coefficient": 0.0}, "trust_coefficient"),
        ({"name": "LARS", "momentum": 1.0}, "momentum"),
    ],
)
def test_impossible_arguments_are_named(cfg, words):
    with pytest.raises(PasslError, match=words):
        build_optimizer(cfg, make_network())


# ---------------------------------------------------------------- state


OPTIMIZERS = [
    {"name": "AdamW", "weight_decay": 0.1, "grad_clip": 1.0},
    {"name": "SGD", "weight_decay": 0.1, "nesterov": True},
    {"name": "LAMB", "weight_decay": 0.1, "groups": [{"parameters": "*.bias", "lr_scale": 2.0}]},
    {"name": "LARS", "weight_decay": 0.1, "trust_coefficient": 0.1},
    {"name": "LARS", "weight_decay": 0.1, "joint_norm": True, "rate_in_velocity": True,
     "groups": [{"parameters": "*.bias", "lr_scale": 2.0}, {"parameters": "body.*", "lr": 0.02}]},
]  # fmt: skip


@pytest.mark.parametrize("cfg", OPTIMIZERS)
def test_the_state_speaks_of_the_networks_own_names(cfg):
    network = make_network()
    optimizer = build_optimizer(cfg, network)
    take_steps(network, optimizer, range(2))
    state = optimizer.state_dict()
    assert {key.rpartition("/")[0] for key in state} == DECAYED | UNDECAYED
    quantities = {key.rpartition("/")[2] for key in state}
    adam = cfg["name"] in ("AdamW", "LAMB")
    assert ({"moment1", "moment2"} if adam else {"velocity"}) <= quantities
    assert all(isinstance(value, np.ndarray) for value in state.values())
    if cfg["name"] == "AdamW":
        # moment1 after two steps, by hand.
        first, second = (clipped(gradients_of_step(network, step), 1.0) for step in range(2))
        expected = 0.9 * 0.1 * first["last.weight"] + 0.1 * second["last.weight"]
        np.testing.assert_allclose(state["last.weight/moment1"], expected, rtol=1e-4, atol=1e-7)


def continued(cfg, load):
    """Ten steps at once, and five, a save, ``load``, five more: the parameters of both."""
    network = make_network()
    optimizer = build_optimizer(cfg, network)
    take_steps(network, optimizer, range(5))
    weights, state = values(network), optimizer.state_dict()
    kept = {key: value.copy() for key, value in state.items()}
    take_steps(network, optimizer, range(5, 10))
    for key, value in kept.items():
        np.testing.assert_array_equal(state[key], value, err_msg="a saved state must not move")
    other, other_optimizer = load(weights, kept)
    take_steps(other, other_optimizer, range(5, 10))
    return values(network), values(other)


@pytest.mark.smoke
@pytest.mark.parametrize("cfg", OPTIMIZERS)
def test_a_freshly_built_network_continues_exactly(cfg):
    def load(weights, state):
        nn.Linear(2, 2), Network()  # shifts Paddle's automatic names
        network = make_network(seed=1)
        network.set_state_dict({name: paddle.to_tensor(v) for name, v in weights.items()})
        optimizer = build_optimizer(cfg, network)
        optimizer.load_state_dict(state)
        return network, optimizer

    first, second = continued(cfg, load)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.smoke
@pytest.mark.parametrize("cfg", OPTIMIZERS)
def test_a_restored_state_can_be_saved_again_before_the_first_step(cfg):
    network = make_network()
    optimizer = build_optimizer(cfg, network)
    take_steps(network, optimizer, range(2))
    state = optimizer.state_dict()
    resumed = build_optimizer(cfg, make_network())
    resumed.load_state_dict(state)
    again = resumed.state_dict()
    # A resumed run may be stopped right away, and saves then.
    assert set(again) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(again[key], value)


@pytest.mark.parametrize("cfg", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 1])
def test_an_optimizer_that_is_not_the_first_of_its_network_continues_exactly(cfg, steps_before):
    def load(weights, state):
        network = make_network(seed=1)
        take_steps(network, build_optimizer(cfg, network), range(2))
        optimizer = build_optimizer(cfg, network)
        take_steps(network, optimizer, range(steps_before))
        network.set_state_dict({name: paddle.to_tensor(v) for name, v in weights.items()})
        optimizer.load_state_dict(state)
        return network, optimizer

    first, second = continued(cfg, load)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_state_of_another_network_is_refused():
    network = make_network()
    optimizer = build_optimizer({"name": "SGD"}, network)
    with pytest.raises(PasslError, match="third.weight"):
        optimizer.load_state_dict({"third.weight/velocity": np.zeros((2, 2), np.float32)})


# ---------------------------------------------------------------- schedules


def schedule(name, total_steps=100, steps_per_epoch=10, global_batch=64, **arguments):
    cfg = {"name": name, "learning_rate": 0.4, **arguments}
    return build_schedule(cfg, total_steps, steps_per_epoch, global_batch)


def test_constant():
    rate = schedule("Constant")
    assert [rate(step) for step in (0, 50, 99, 1000)] == [0.4] * 4


@pytest.mark.smoke
@pytest.mark.parametrize("length", [{"warmup_steps": 20}, {"warmup_epochs": 2.0}])
@pytest.mark.parametrize("name", ["Constant", "Linear", "Cosine"])
def test_warm_up_is_linear_and_ends_at_the_peak(name, length):
    rate = schedule(name, start_lr=0.1, **length)
    for step in range(20):
        assert rate(step) == pytest.approx(0.1 + 0.3 * step / 20)
    assert rate(20) == pytest.approx(0.4)
    assert schedule(name, **length)(0) == 0.0


# timm's CosineLRScheduler(t_initial=6, lr_min=1e-5, warmup_t=2, warmup_lr_init=1e-6,
# t_in_epochs=True) over 8 epochs at 1e-3, its _get_lr(0), _get_lr(1), … (timm 1.0.31).
TIMMS = [1e-06, 0.0005005000000000001, 0.0007525, 0.000505, 0.00025750000000000013,
         7.631742512670284e-05, 1e-05, 1e-05]  # fmt: skip


def test_rates_by_the_epoch_with_the_decay_under_way_are_timms():
    ours = schedule(
        "Cosine", total_steps=80, learning_rate=1e-3, start_lr=1e-6, end_lr=1e-5, warmup_epochs=2,
        decay_from_start=True, per_epoch=True, cooldown_epochs=2,
    )  # fmt: skip
    for epoch, rate in enumerate(TIMMS):
        for step in (10 * epoch, 10 * epoch + 9):
            assert ours(step) == pytest.approx(rate, rel=1e-12), (epoch, step)


def test_by_the_step_the_decay_is_under_way_when_the_warm_up_ends():
    ours = schedule("Cosine", learning_rate=1.0, warmup_steps=25, decay_from_start=True)
    assert ours(24) == pytest.approx(24 / 25)
    assert ours(25) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.25)))
    assert ours(99) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))
    plain = schedule("Cosine", learning_rate=1.0, warmup_steps=25)
    assert plain(25) == 1.0


def test_a_warm_up_may_be_part_of_an_epoch():
    rate = schedule("Constant", warmup_epochs=0.5)
    assert rate(4) == pytest.approx(0.4 * 4 / 5) and rate(5) == 0.4


@pytest.mark.smoke
@pytest.mark.parametrize("warmup", [0, 20])
@pytest.mark.parametrize("end_lr", [0.0, 0.04])
def test_linear_and_cosine_by_formula(warmup, end_lr):
    linear = schedule("Linear", warmup_steps=warmup, end_lr=end_lr)
    cosine = schedule("Cosine", warmup_steps=warmup, end_lr=end_lr)
    for step in range(warmup, 100):
        share = (step - warmup) / (100 - warmup)
        assert linear(step) == pytest.approx(0.4 + (end_lr - 0.4) * share)
        half_wave = (1 + math.cos(math.pi * share)) / 2
        assert cosine(step) == pytest.approx(end_lr + (0.4 - end_lr) * half_wave)
    for rate in (linear, cosine):
        assert rate(100) == pytest.approx(end_lr, abs=1e-12)
        assert rate(150) == pytest.approx(end_lr, abs=1e-12)
        assert cosine(warmup + (100 - warmup) // 2) == pytest.approx((0.4 + end_lr) / 2)


@pytest.mark.parametrize("power", [1.0, 0.5, 2.0])
def test_polynomial_by_formula(power):
    rate = schedule("Polynomial", power=power, warmup_steps=20, end_lr=0.04)
    linear = schedule("Linear", warmup_steps=20, end_lr=0.04)
    for step in range(20, 100):
        assert rate(step) == pytest.approx(0.04 + 0.36 * ((100 - step) / 80) ** power)
        if power == 1.0:
            assert rate(step) == linear(step)


@pytest.mark.parametrize("scaling, factor", [("linear", 4.0), ("sqrt", 2.0)])
@pytest.mark.parametrize(
    "name, more",
    [
        ("Constant", {}),
        ("Linear", {"end_lr": 0.1}),
        ("Cosine", {"end_lr": 0.1}),
        ("Polynomial", {"end_lr": 0.1, "power": 2.0}),
        ("Step", {"milestone_steps": [50]}),
    ],
)
def test_rates_are_scaled_from_the_batch_that_they_are_given_for(name, more, scaling, factor):
    arguments = {"warmup_steps": 10, "start_lr": 0.01, **more}
    fixed = schedule(name, global_batch=1024, **arguments)
    scaled = schedule(
        name, global_batch=1024, reference_batch_size=256, scaling=scaling, **arguments
    )
    for step in (0, 5, 10, 49, 50, 99):
        assert scaled(step) == pytest.approx(factor * fixed(step))


@pytest.mark.parametrize("where", [{"milestone_steps": [60, 30]}, {"milestone_epochs": [3, 6.0]}])
def test_step_drops_at_each_milestone(where):
    rate = schedule("Step", gamma=0.5, warmup_steps=10, **where)
    expected = {5: 0.2, 10: 0.4, 29: 0.4, 30: 0.2, 59: 0.2, 60: 0.1, 99: 0.1}
    assert {step: rate(step) for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("Linear", {"warmup_steps": 100}, "100 steps does not fit into a run of 100"),
        ("Linear", {"warmup_epochs": 11.0}, "110 steps does not fit"),
        ("Cosine", {"warmup_steps": -1}, "warm-up"),
        ("Cosine", {"warmup_steps": 5, "warmup_epochs": 1.0}, "not both"),
        ("Cosine", {"end_lr": 0.5}, "end_lr"),
        ("Cosine", {"learning_rate": -1.0}, "learning_rate"),
        ("Cosine", {"learning_rate": float("nan")}, "learning_rate"),
        ("Constant", {"start_lr": -1.0, "warmup_steps": 1}, "start_lr"),
        ("Step", {}, "milestone"),
        ("Step", {"milestone_steps": [1], "milestone_epochs": [1]}, "milestone"),
        ("Step", {"milestone_steps": [1.5]}, "milestone_steps"),
        ("Cosine", {"cooldown_epochs": 10.0}, "cooldown_epochs of 10 leave no decay in a run"),
        ("Cosine", {"cooldown_epochs": -1.0}, "cooldown_epochs of -1"),
        ("Cosine", {"T_max": 3}, "T_max"),
        ("Cosin", {}, "did you mean 'Cosine'"),
        ("Polynomial", {"power": 0.0}, "power is above 0"),
        ("Linear", {"reference_batch_size": 0}, "reference_batch_size is at least 1"),
        ("Linear", {"scaling": "square"}, "scaling is 'linear' or 'sqrt'"),
    ],
)
def test_impossible_schedules_are_named(name, arguments, words):
    with pytest.raises(PasslError, match=words):
        schedule(name, **arguments)


def test_a_config_may_give_whole_numbers_where_fractions_are_allowed():
    rate = schedule("Linear", learning_rate=1, warmup_epochs=1, start_lr=0, end_lr=0)
    assert rate(10) == 1 and rate(5) == 0.5


def test_the_norm_of_the_gradients_is_that_before_clipping_and_without_the_loss_scale():
    network = paddle.nn.Linear(3, 2)
    optimizer = build_optimizer({"name": "SGD", "grad_clip": 0.1}, network)
    (network(paddle.ones([4, 3])) * 8).sum().backward()
    gradients = [p.grad.numpy().astype(np.float64) for p in network.parameters()]
    expected = np.sqrt(sum((g**2).sum() for g in gradients))
    assert optimizer.gradient_norm().item() == pytest.approx(expected, rel=1e-6)
    optimizer.loss_scaling.scale.set_value(paddle.full_like(optimizer.loss_scaling.scale, 4.0))
    assert optimizer.gradient_norm().item() == pytest.approx(expected / 4, rel=1e-6)


@pytest.mark.smoke
@pytest.mark.parametrize("name", NAMES)
def test_a_norm_that_overflows_skips_the_step(name):
    """No gradient is infinite, but their squares are: clipped by it, they would all be zero."""
    network = make_network()
    optimizer = build_optimizer({"name": name, "weight_decay": 0.5, "grad_clip": 1.0}, network)
    before = values(network)
    sum((p * 3e38).sum() for p in network.parameters() if not p.stop_gradient).backward()
    finite = optimizer.step(0.1)
    assert not bool(finite)
    for key, value in values(network).items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)
