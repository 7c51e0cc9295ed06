"""Thousands of damaged weight files: each is read, or refused with one clear error."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from watched_reading import WatchedReader

from passl.weights import write_tensor_file

FILES = Path(__file__).parent / "files"
# How much more memory reading small files may take, in MiB.
MEMORY = 64


def network():
    rng = np.random.default_rng(0)
    shapes = {"stem.proj.weight": (4, 3, 2, 2), "norm.bias": (4,), "head.fc.weight": (4, 3)}
    return {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def write_seeds(folder):
    """Writes one small file of each kind that is read; returns their paths."""
    arrays = network()
    states = {name: paddle.to_tensor(array) for name, array in arrays.items()}
    np.savez(folder / "stored.npz", **{name.replace(".", "/"): a for name, a in arrays.items()})
    np.savez_compressed(
        folder / "packed.npz",
        **{"params/Dense_0/kernel": arrays["head.fc.weight"], "params/step": np.int64(3)},
        order=np.asfortranarray(arrays["head.fc.weight"]),
        big=arrays["norm.bias"].astype(">f8"),
    )
    paddle.save(states, str(folder / "plain.pdparams"))
    paddle.save({"state_dict": states, "epoch": 3}, str(folder / "nested.pdparams"))
    paddle.save(states, str(folder / "protocol2.pdparams"), protocol=2)
    write_tensor_file(folder / "weights.safetensors", arrays, {"class_names": ["a", "b"]})
    training = {f"model/{name}": array for name, array in arrays.items()}
    training["optimizer/step"] = np.array(7)
    write_tensor_file(folder / "training.safetensors", training, {"kind": "training"})
    return [*sorted(folder.iterdir()), *sorted(FILES.glob("*.pth"))]


@pytest.fixture
def fuzz(tmp_path):
    """Reads so many damaged files; returns what came of them, by the file they were made from."""
    for name in ("seeds", "empty"):
        (tmp_path / name).mkdir()
    seeds = write_seeds(tmp_path / "seeds")
    reader = WatchedReader(tmp_path / "empty", seeds)

    def run(count, seed, seconds):
        job = {
            "seeds": [str(path) for path in seeds],
            "target": str(tmp_path / "damaged"),
            "first": 0,
            "count": count,
            "seed": seed,
        }
        answer = reader.ask(job, seconds)
        assert answer["problems"] == []
        assert not list((tmp_path / "empty").iterdir())
        assert answer["growth"] < MEMORY
        # The damage reaches deep: of each file some copies are read all the same, others are
        # refused, for many reasons.
        assert all(n["read"] and n["refused"] for n in answer["counts"].values()), answer
        assert len(answer["reasons"]) > 60, answer["reasons"]
        return answer

    yield run
    reader.close()


def test_damaged_files(fuzz):
    fuzz(3000, seed=1, seconds=120)


@pytest.mark.soak
def test_more_damaged_files(fuzz):
    fuzz(50000, seed=2, seconds=900)
