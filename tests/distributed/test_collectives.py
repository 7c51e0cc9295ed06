"""What processes exchange: alone, and between two real ones; a run whose batches are gathered."""

import re
import shutil

import contrastive
import numpy as np
import paddle
import pytest
import yaml
from helpers import ROOT, losses, small_config, start_processes, weights

from passl.distributed import collectives
from passl.distributed.processes import Processes
from passl.engine import train
from passl.modeling.architectures import ARCHITECTURES
from passl.modeling.layers import BatchNorm1D, BatchNorm2D
from passl.utils.config import get_config

PROGRAM = ROOT / "tests" / "distributed" / "contrastive.py"


def test_alone_each_is_the_identity():
    x = paddle.to_tensor([[1.0, 2.0]], stop_gradient=False)
    doubled = x * 2
    assert collectives.all_gather_with_gradient(doubled) is doubled
    # Without gradient, as among several, and without a copy.
    for exchange in (collectives.all_gather, collectives.all_reduce):
        found = exchange(doubled)
        assert found.stop_gradient and found.data_ptr() == doubled.data_ptr()
    assert not doubled.stop_gradient
    collectives.broadcast(doubled)
    assert doubled.tolist() == [[2, 4]]
    rows = np.ones((2, 3))
    assert collectives.gather_rows(rows) is rows
    assert collectives.all_gather_object("it") == ["it"]
    assert (collectives.process_rank(), collectives.process_count()) == (0, 1)


@pytest.mark.parametrize("kind, shape", [(BatchNorm2D, [4, 3, 2, 2]), (BatchNorm1D, [4, 3])])
def test_alone_a_synchronous_batch_norm_does_what_another_does(kind, shape):
    paddle.seed(0)
    x, found = paddle.randn(shape), []
    for sync in (False, True):
        layer = kind(3, sync=sync)
        found.append([layer(x), layer._mean, layer._variance])
    for one, other in zip(*found):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("kind, shape", [(BatchNorm2D, [4, 3, 2, 2]), (BatchNorm1D, [4, 3])])
def test_without_affine_nothing_is_learned_or_saved(kind, shape):
    layer = kind(3, affine=False)
    assert layer.parameters() == [] and set(layer.state_dict()) == {"_mean", "_variance"}
    x = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy(), expected, atol=1e-5)


@pytest.fixture(scope="module")
def config(photos, tmp_path_factory):
    """Four images a step of 30 in all, of which three cannot be read, two side by side.

    ``config(2)`` takes two of them in each process.
    """
    root = tmp_path_factory.mktemp("gathered")
    shutil.copytree(photos / "train", root / "train")
    for path in sorted((root / "train").rglob("*.jpg"))[1::2]:
        path.unlink()
    files = sorted((root / "train").rglob("*.jpg"))
    for place in (4, 5, 29):
        files[place].write_bytes(b"not an image")

    def write(batch_size):
        cfg = small_config(root, model={"name": "Contrastive"}, epochs=1)
        cfg["model"] = {"name": "Contrastive"}
        cfg["dataloader"] = {"train": cfg["dataloader"]["train"]}
        cfg["dataloader"]["train"]["batch_transforms"].pop()  # mixes
        cfg["dataloader"]["train"].update(
            sampler={"batch_size": batch_size}, loader={"num_workers": 0}
        )
        cfg["optimizer"] = {"name": "SGD", "momentum": 0.9}
        path = root / f"{batch_size}.yaml"
        path.write_text(yaml.safe_dump(cfg))
        return path

    return write


@pytest.fixture(scope="module")
def together(config, tmp_path_factory):
    """What two processes that asserted what they share came to: arrays, the run, their logs."""
    folder = tmp_path_factory.mktemp("together")
    process = start_processes(
        2, folder / "logs", PROGRAM, config(2), folder / "run", folder / "results.npz"
    )
    process.communicate(timeout=120)
    logs = [path.read_text() for path in sorted((folder / "logs").glob("workerlog.*"))]
    assert process.returncode == 0, "\n".join(logs)
    assert all("all of it holds" in log for log in logs)
    return np.load(folder / "results.npz"), folder / "run"


@pytest.mark.smoke
@pytest.mark.parametrize(
    "name, tolerance", [("float32", 1e-6), ("float64", 1e-9), ("accumulated", 1e-9)]
)
def test_two_processes_train_what_one_does(together, name, tolerance):
    """One process × 8 is two × 4: contrastive, with batch norms; one step, or ten of them."""
    dtype, steps, micro = contrastive.RUNS[name]
    expected = contrastive.train_steps(Processes(), dtype, steps, micro)
    found, _ = together
    assert len(expected) == 17
    for key, array in expected.items():
        error = np.abs(found[f"{name}/{key}"] - array).max()
        assert error < tolerance, (key, error)
    paddle.seed(0)
    for key, parameter in contrastive.Contrastive().named_parameters():
        if key.endswith("weight"):  # the norms take the biases before them out
            assert np.abs(expected[key] - parameter.numpy()).max() > 1e-4, f"{key} has not learned"


@pytest.mark.smoke
def test_an_unreadable_image_of_a_gathered_batch_is_replaced(
    together, config, tmp_path, monkeypatch
):
    """No process waits, and it is the run of one process, which replaces it too."""
    _, run = together
    monkeypatch.setitem(ARCHITECTURES._factories, "Contrastive", contrastive.Contrastive)
    train(get_config(config(4), [f"output_dir={tmp_path / 'run'}"]))
    expected = losses(tmp_path / "run")
    assert losses(run).keys() == expected.keys() == set(range(1, 8))
    for step, loss in expected.items():
        assert losses(run)[step] == pytest.approx(loss, abs=1e-4), step
    for name, array in weights(tmp_path / "run").items():
        np.testing.assert_allclose(weights(run)[name], array, atol=1e-3, err_msg=name)
    said = "".join(path.read_text() for path in run.glob("train*.log"))
    assert len(set(re.findall("skipped an image: (.*?):", said))) == 3, said
