"""The moving average of the weights, against its definition in float64."""

import numpy as np
import paddle
import pytest
import yaml
from helpers import records, run_here, small_config
from paddle import nn

from passl.engine import train
from passl.solver import WeightAverage
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.weights import WeightFile


@pytest.mark.smoke
@pytest.mark.parametrize("decay, warmup", [(0.9, False), (0.9, True), (0.0, False), (0.5, True)])
def test_it_is_the_average_of_its_definition(decay, warmup):
    paddle.seed(1)
    layer = nn.Linear(3, 2)
    layer.bias.stop_gradient = True
    average = WeightAverage(layer, decay, warmup)
    expected = layer.weight.numpy().astype(np.float64)
    rng = np.random.default_rng(0)
    for steps in range(1, 40):
        layer.weight.set_value(rng.normal(size=(3, 2)).astype(np.float32))
        average.update(steps, {"weight": layer.weight})
        d = min(decay, (1 + steps) / (10 + steps)) if warmup else decay
        expected = d * expected + (1 - d) * layer.weight.numpy()
    weights = layer.weight.numpy().copy()
    with average.applied():
        np.testing.assert_allclose(layer.weight.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(layer.weight.numpy(), weights)
    assert average.tensors().keys() == {"weight"}, "what does not learn is not averaged"


def test_a_decay_out_of_bounds():
    with pytest.raises(PasslError, match=r"ema.decay lies in \[0, 1\), not 1"):
        WeightAverage(nn.Linear(2, 2), 1.0)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    base = tmp_path_factory.mktemp("ema")
    config = base / "small.yaml"
    config.write_text(yaml.safe_dump(small_config(photos, epochs=4, ema={"decay": 0.8})))
    train(get_config(config, [f"output_dir={base / 'run'}"]))
    return config, base / "run"


def test_the_average_is_what_is_evaluated_and_tested(whole, tmp_path):
    """The command line gives a checkpoint the figures that training gave it, and others without."""
    config, folder = whole
    best = folder / "checkpoints" / "best.safetensors"
    record = next(r for r in records(folder) if r.get("split") == "test")
    results = []
    for options in ((), ("--weights-key", "model")):
        file = tmp_path / "result.json"
        code, _, err = run_here(
            "eval", "-c", config, "--weights", best, "--split", "test", "--json", file, *options
        )
        assert code == 0, err
        results.append(yaml.safe_load(file.read_text()))
    assert results[0]["loss"] == pytest.approx(record["loss"], abs=1e-6)
    assert results[0]["top1"] == record["top1"]
    assert results[1]["loss"] != pytest.approx(record["loss"], abs=1e-6)


def test_resumed_it_is_the_same_average(whole, tmp_path, photos):
    config, folder = whole
    half = tmp_path / "run"
    cfg = get_config(config, [f"output_dir={half}", "checkpoint.keep=100"])
    train(cfg)
    early = sorted((half / "checkpoints").glob("step-*"))[1]
    for path in (half / "checkpoints").iterdir():
        if path != early:
            path.unlink()
    train(cfg, resume=str(early))
    one, other = (
        WeightFile(path / "checkpoints" / "latest.safetensors").read_group("ema")
        for path in (folder, half)
    )
    assert one.keys() == other.keys() and one
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_biases_and_norms_are_averaged_as_well():
    layer = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    average = WeightAverage(layer, 0.5, warmup=False)
    names = {name for name, _ in layer.named_parameters()}
    assert average.tensors().keys() == names and len(names) == 4
    average.update(1, {name: p + 1.0 for name, p in layer.named_parameters()})
    for name, parameter in layer.named_parameters():
        np.testing.assert_allclose(
            average.tensors()[name].numpy(), parameter.numpy() + 0.5, atol=1e-6, err_msg=name
        )
