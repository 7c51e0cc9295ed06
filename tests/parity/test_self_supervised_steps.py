"""Steps of the self-supervised methods beside MoCo's own code and lightly's parts, in float64.

Rates, momenta and epsilons are such that float32 holds exactly: Paddle takes them as that.
"""

import json
import os

import numpy as np
import pytest
from self_supervised import method, views
from stepping import stepping

STEPS, IMAGES, EPSILON = 5, 8, 2**-20
MLP = {"hidden": 8, "out": 6}  # MoCo's authors make the hidden layer as wide as the features


def ours(name, total=100, decay=0.0, **changes):
    network = method(name, dtype="float64", **changes)
    for layer in network.sublayers():
        if hasattr(layer, "_epsilon"):
            layer._epsilon = EPSILON
    groups = [{"parameters": "*", "weight_decay": decay}]
    step, optimizer = stepping(network, IMAGES, rate=1 / 16, total=total, groups=groups)
    return network, step, optimizer


def compare(network, step, optimizer, reference, tmp_path, recipe, late=(), shift=0.0):
    """Makes the steps on both sides and compares all that both have.

    Args:
        late: parts of the state that the other side has as they were before a step.
        shift: what its loss lacks.
    """
    batches = [views(IMAGES, seed=number, dtype="float64") for number in range(STEPS)]
    given = {f"weights/{key}": tensor.numpy() for key, tensor in network.state_dict().items()}
    for key in ("image", "image_1"):
        given[key] = np.stack([batch[key].numpy() for batch in batches])
    np.savez(tmp_path / "given.npz", **given)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    checkouts = [os.environ["PASSL_AUTHORS_CODE"]] if recipe["method"] == "authors" else []
    files = [tmp_path / name for name in ("given.npz", "out.npz", "recipe.json")]
    reference("self_supervised.py", *files, *checkouts)
    theirs = dict(np.load(tmp_path / "out.npz"))
    assert len(theirs["losses"]) == STEPS
    make, gradients = optimizer.step, {}

    def recording(rate):
        for key, parameter in network.named_parameters():
            if parameter.grad is not None:
                gradients.setdefault(key, parameter.grad.numpy())
        return make(rate)

    optimizer.step = recording
    compared = set()
    for number, batch in enumerate(batches):
        before = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
        loss = step(number, batch).losses[0].item()
        assert loss == pytest.approx(theirs["losses"][number] + shift, abs=1e-10), number
        after = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
        for name, expected in theirs.items():
            at, _, key = name.partition("/")
            if at != str(number):
                continue
            found = (before if key.startswith(late) and late else after)[key]
            np.testing.assert_allclose(found, expected, atol=1e-10, rtol=0, err_msg=name)
            compared.add(key)
    for key, gradient in gradients.items():
        expected = theirs[f"gradient/{key}"]
        np.testing.assert_allclose(gradient, expected, atol=1e-10, rtol=0, err_msg=key)
    left = set(network.state_dict()) - compared
    assert all(key.endswith(("_mean", "_variance", "queue.pointer")) for key in left), left
    return compared


@pytest.mark.reference
@pytest.mark.skipif("PASSL_AUTHORS_CODE" not in os.environ, reason="needs PASSL_AUTHORS_CODE")
@pytest.mark.parametrize("layers", [1, 2])
def test_mocos_own_code(layers, reference, tmp_path):
    """Versions 1 and 2, with decay on everything; the queue goes round once."""
    decay = 2**-10
    network, step, optimizer = ours("MoCo", decay=decay, projector={**MLP, "layers": layers})
    recipe = {"method": "authors", "dim": 6, "K": 32, "m": 0.875, "T": 0.25, "mlp": layers == 2,
              "decay": decay}  # fmt: skip
    compared = compare(network, step, optimizer, reference, tmp_path, recipe, late=("twin.",))
    assert "queue.pointer" in compared and network.queue.pointer.item() == 8
    assert any(key.startswith("twin.projector") for key in compared)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["SimCLR", "MoCo", "BYOL"])
def test_lightlys_parts(name, reference, tmp_path):
    recipe = {"method": name, "hidden": 12, "dim": 6, "decay": 0.0, "total": 100}
    projector = {"hidden": 12, "out": 6, "init": "torch"}
    shift = 0.0
    if name == "SimCLR":
        projector["out_norm"] = "affine"
        built = ours(name, projector=projector, T=0.5, loss_scale=1.0)
        recipe["T"] = 0.5
    elif name == "MoCo":
        built = ours(name, projector=projector, T=0.25)
        recipe.update(T=0.25, K=32, m=0.875)
    else:
        heads = {**projector, "bias": False, "out_bias": True}
        built = ours(name, projector=heads, predictor=heads, tau=0.75, loss_scale=0.25)
        recipe["m"], shift = 0.75, 1.0  # lightly leaves the constant out
    compared = compare(*built, reference, tmp_path, recipe, shift=shift)
    assert any(key.startswith("twin.") for key in compared) == (name != "SimCLR")
    assert ("queue.keys" in compared) == (name == "MoCo")
