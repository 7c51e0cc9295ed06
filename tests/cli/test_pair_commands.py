"""Commands on sets of pairs: dry run, benchmark, pack, the first batch of a run."""

import json

import numpy as np
import pytest
import yaml
from helpers import run_here
from pair_files import clip_config, samples, shard

from passl.inspection import pictures
from passl.utils import contact_sheet


@pytest.fixture
def config(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("PASSL_CACHE", str(tmp_path / "cache"))
    for part, first, count in (("train", 0, 24), ("val", 100, 8)):
        (tmp_path / part).mkdir()
        content = samples(first, count)
        for i, (_, fields) in enumerate(content):
            fields["txt"] = f"一只在雪地里奔跑的黑狗\n A  dog {chr(97 + i)}".encode()
        shard(tmp_path / part / "00000.tar", content)
    path = tmp_path / "clip.yaml"
    cfg = clip_config(photos, tmp_path)
    cfg["dataloader"]["train"]["dataset"]["transforms"][1]["context"] = 40
    cfg["model"]["text"]["context"] = 40
    path.write_text(yaml.safe_dump(cfg))
    return path


def test_a_dry_run_shows_pairs(config, tmp_path, monkeypatch):
    """What the data says in the first column, what the network reads in the others."""
    drawn = []

    def noting(rows, *arguments):
        drawn.extend(rows)
        return contact_sheet.contact_sheet(rows, *arguments)

    monkeypatch.setattr(pictures, "contact_sheet", noting)
    code, out, err = run_here("train", "-c", config, "--output-dir", tmp_path / "run", "--dry-run")
    assert code == 0, err
    assert (tmp_path / "run/dry-run/augmented.png").stat().st_size > 1000
    assert len(drawn) == 6
    for row in drawn:
        titles = [title for _, title in row]
        own = titles[0][-1]
        assert titles[0] == f"一只在雪地里奔跑的黑狗 A dog {own}"
        assert titles[1:] == [f"epoch {i}\n一只在雪地里奔跑的黑狗 a dog {own}" for i in range(1, 7)]
    assert len({row[0][1] for row in drawn}) == 6


def test_a_dry_run_with_made_up_pairs(config, tmp_path):
    code, out, err = run_here(
        "train", "-c", config, "--output-dir", tmp_path / "run", "--dry-run", "--synthetic",
        "-o", "dataloader.train.dataset.dataroot=nowhere",
    )  # fmt: skip
    assert code == 0, err
    assert "SyntheticPairs" in out + err


def test_the_first_batch_of_a_run_is_shown_with_its_texts(config, tmp_path, monkeypatch):
    from passl.hooks import board

    drawn, real = [], board.batch_cells
    monkeypatch.setattr(board, "batch_cells", lambda *a: [drawn.append(real(*a)), drawn[-1]][1])
    code, out, err = run_here("train", "-c", config, "--output-dir", tmp_path / "run")
    assert code == 0, err
    assert (tmp_path / "run/first_batch.png").is_file()
    titles = [title for _, title in drawn[0]]
    assert len(set(titles)) == len(titles) == 8
    assert all(title[:-1] == "一只在雪地里奔跑的黑狗 a dog " for title in titles)


def test_packing_pairs_is_refused(config, tmp_path):
    code, out, err = run_here("pack", "-c", config, "--split", "train", "--output", tmp_path / "p")
    assert code == 2 and "images with captions are not packed" in err
    assert err.count("error") == 1 and not (tmp_path / "p").exists()


@pytest.mark.parametrize("what", ["data", "step", "train"])
def test_benchmarks(config, tmp_path, what):
    file = tmp_path / "found.json"
    code, out, err = run_here(
        "benchmark",
        what,
        "-c",
        config,
        "--repeats",
        1,
        "--steps",
        2,
        "--images",
        16,
        "--json",
        file,
    )
    assert code == 0, err
    found = json.loads(file.read_text())
    rate = found["loader"]["rates"][0] if what == "data" else found["images_per_second"]
    assert rate > 0 and np.isfinite(rate)
