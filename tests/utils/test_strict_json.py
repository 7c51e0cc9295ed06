"""NaN is not JSON: jq and browsers refuse a file that has it."""

import io
import json

import numpy as np
import pytest

from passl.utils.records import read_metrics, write_record
from passl.utils.strict_json import to_json
from passl.weights import WeightFile, write_tensor_file


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


@pytest.mark.smoke
def test_numbers_that_are_none_are_null():
    nan, inf = float("nan"), float("inf")
    value = {"a": [nan, 1.5, (inf, "NaN")], "b": {"c": -inf, "d": np.float64("nan")}, "e": True}
    value.update(f=np.float32("nan"), g=np.int64(3))
    expected = {
        "a": [None, 1.5, [None, "NaN"]],
        "b": {"c": None, "d": None},
        "e": True,
        "f": None,
        "g": 3,
    }
    assert json.loads(to_json(value), parse_constant=refuse) == expected


def test_records_and_checkpoints(tmp_path):
    file = io.StringIO()
    write_record(file, {"step": 1, "loss": float("nan"), "lr": 0.1})
    (tmp_path / "metrics.jsonl").write_text(file.getvalue())
    assert list(read_metrics(tmp_path / "metrics.jsonl")) == [{"step": 1, "loss": None, "lr": 0.1}]
    path = tmp_path / "x.safetensors"
    progress = {"progress": {"loss_sum": float("nan"), "best": {"loss": float("inf")}}}
    write_tensor_file(path, {"a": np.zeros(1, np.float32)}, {"kind": "weights", **progress})
    with WeightFile(path) as weights:
        assert weights.metadata["progress"] == {"loss_sum": None, "best": {"loss": None}}
    assert b"NaN" not in path.read_bytes() and b"Infinity" not in path.read_bytes()
