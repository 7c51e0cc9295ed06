"""Gradients of a batch in two passes over its parts, beyond what two processes are tested with."""

import numpy as np
import paddle
import pytest
from clip import small_clip, small_pairs
from stepping import SECTIONS, stepping

from passl.distributed.processes import Processes
from passl.engine.execution import Execution
from passl.engine.precision import Precision
from passl.solver import build_optimizer


def recorded(network, monkeypatch):
    """Lets the network note what it embeds."""
    found, embed = [], network.embed

    def embedding(batch):
        embeddings = embed(batch)
        found.append([e.numpy() for e in embeddings])
        return embeddings

    monkeypatch.setattr(network, "embed", embedding)
    return found


@pytest.mark.smoke
def test_both_passes_draw_the_same_numbers(monkeypatch):
    network = small_clip("ViT")
    for block in network.backbone.blocks:
        block.attn.drop = paddle.nn.Dropout(0.5)
    found = recorded(network, monkeypatch)
    step, _ = stepping(network, 8, rate=0.1, parts=2)
    step(0, small_pairs("ViT", 8))
    first, second = found[:2], found[2:]
    assert len(first) == len(second) == 2
    for one, other in zip(first, second):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)
    assert np.abs(first[0][0] - first[1][0]).max() > 0.01
    step(1, small_pairs("ViT", 8))
    assert np.abs(found[4][0] - first[0][0]).max() > 0.01, "another step, other numbers"


@pytest.mark.smoke
def test_running_statistics_move_once_for_each_part():
    """As two batches one after the other move them; the first of the passes leaves them alone."""
    batch = small_pairs("ResNet", 8)
    network = small_clip("ResNet")
    step, _ = stepping(network, 8, rate=0.0, parts=2)
    step(0, batch)
    other = small_clip("ResNet")
    with paddle.no_grad():
        for part in (slice(0, 4), slice(4, 8)):
            other.embed({key: x[part] for key, x in batch.items()})
    state = other.state_dict()
    compared = 0
    for name, tensor in network.state_dict().items():
        if name.endswith(("_mean", "_variance")):
            np.testing.assert_array_equal(tensor.numpy(), state[name].numpy(), name)
            compared += 1
    assert compared > 10


def test_frozen_towers_in_parts():
    whole, parts = (
        small_clip("ViT", "float64", freeze=["backbone", "image_projection"]) for _ in range(2)
    )
    for network, count in ((whole, 1), (parts, 4)):
        step, _ = stepping(network, 8, rate=0.5, parts=count)
        for number in range(3):
            step(number, small_pairs("ViT", 8, number, "float64"))
    state = parts.state_dict()
    for name, tensor in whole.state_dict().items():
        np.testing.assert_allclose(state[name].numpy(), tensor.numpy(), atol=1e-12, err_msg=name)


@pytest.mark.parametrize("loss, fixed", [("softmax", "logit_scale"), ("sigmoid", "logit_bias")])
def test_a_scale_or_bias_that_does_not_learn(loss, fixed):
    whole, parts = (small_clip("ViT", "float64", loss=loss) for _ in range(2))
    for network, count in ((whole, 1), (parts, 2)):
        getattr(network, fixed).stop_gradient = True
        step, _ = stepping(network, 8, rate=0.5, parts=count)
        for number in range(2):
            step(number, small_pairs("ViT", 8, number, "float64"))
    state = parts.state_dict()
    for name, tensor in whole.state_dict().items():
        np.testing.assert_allclose(state[name].numpy(), tensor.numpy(), atol=1e-12, err_msg=name)


def test_the_record_is_that_of_the_whole_batch():
    losses = []
    for parts in (1, 2):
        step, _ = stepping(small_clip("ViT", "float64"), 8, parts=parts)
        result = step(0, small_pairs("ViT", 8, dtype="float64"))
        assert result.counts == [8]
        losses.append((result.losses[0].item(), result.scalars[0]["chance"].item()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_the_same_batch_may_come_twice():
    """As a dry run gives it: the scale's gradient counts once, and gradients are exchanged once."""
    states = []
    for copied in (False, True):
        network = small_clip("ViT", "float64")
        half = small_pairs("ViT", 4, dtype="float64")
        solver = build_optimizer({"name": "SGD", "momentum": 0.875}, network)
        execution = Execution(SECTIONS, network, solver, Precision(None, "cpu"), Processes())
        other = {key: x.clone() for key, x in half.items()} if copied else half
        execution.backward_together([half, other])
        states.append({name: p.grad.numpy() for name, p in network.named_parameters()})
    for name, gradient in states[0].items():
        np.testing.assert_allclose(gradient, states[1][name], atol=1e-14, err_msg=name)
    assert np.abs(states[0]["logit_scale"]) > 1e-6
