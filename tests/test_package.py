"""The installed wheel, outside any checkout."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import losses, my_project, wait_for_step, weights
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.full
def test_the_wheel_carries_commands_and_configs(tmp_path):
    def python(*arguments, **options):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True, text=True, timeout=300, **options,
        )  # fmt: skip

    copy = tmp_path / "passl"  # as a checkout is called
    names = ("passl", "configs", "setup.py", "requirements.txt", "README.md", "pyproject.toml")
    subprocess.run(["mkdir", copy], check=True)
    for name in names:
        subprocess.run(["cp", "-r", ROOT / name, copy], check=True)
    built = python("-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, copy)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("passl_paddle-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert "passl/configs/mlp_mixer/mlp-mixer_b16_224.yaml" in names
        assert "passl/configs/zoo/mlp_mixer.yaml" in names
        assert "passl/configs/_own_images_finetune.yaml" in names and "passl/py.typed" in names
        assert "passl/datasets/sources/imagenet_1k.txt" in names
        assert not [n for n in names if n.startswith(("tests/", "tools/", "configs/"))]
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
        commands = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    requirements = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert not [r for r in requirements if "paddlepaddle" in r and "extra ==" not in r]
    assert [r for r in requirements if "paddlepaddle<" in r and "cpu" in r]
    assert [r for r in requirements if "paddlepaddle-gpu==2.6.2" in r and "gpu" in r]
    assert "passl = passl.cli.main:main" in commands

    site = tmp_path / "site"
    installed = python("-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel)
    assert installed.returncode == 0, installed.stderr
    installed = python(
        "-m", "pip", "install", "-q", "--no-deps", "--prefix", tmp_path / "e", "-e", copy
    )
    assert installed.returncode == 0, installed.stderr
    (path,) = (tmp_path / "e").rglob("*.pth")
    # In the folder above it, the checkout looks like an empty package.
    look = (
        f"import site; site.addsitedir({str(path.parent)!r}); import passl; print(passl.__file__)"
    )
    run = python("-c", look, cwd=tmp_path)
    assert run.stdout.strip() == str(copy / "passl" / "__init__.py"), run.stdout + run.stderr

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {**os.environ, "PYTHONPATH": str(site)}
    run = python("-c", "import passl; print(passl.__file__)", cwd=elsewhere, env=env)
    assert run.stdout.startswith(str(site))
    for config in ("mlp-mixer_b16_224", "configs/mlp_mixer/mlp-mixer_l16_224.yaml"):
        run = python(site / "bin" / "passl", "train", "-c", config, cwd=elsewhere, env=env)
        assert run.returncode == 2, run.stderr
        assert "data/ILSVRC2012: there is no such data folder" in run.stderr
    run = python(site / "bin" / "passl", "eval", "--help", cwd=elsewhere, env=env)
    assert run.returncode == 0 and "example:\n  passl eval -c" in run.stdout

    # Parts of one's own, from the folder that docs/extending.md builds, by the installed command.
    my_project(elsewhere)
    Image.new("RGB", (40, 48), (40, 90, 220)).save(elsewhere / "blue.png")
    command = site / "bin" / "passl"
    config, run_folder = elsewhere / "my_project" / "config.yaml", tmp_path / "run"
    run = python(command, "train", "-c", config, "--output-dir", run_folder, cwd=elsewhere, env=env)
    assert run.returncode == 0 and "worst class" in run.stdout, run.stderr
    saved, other = run_folder / "config.yaml", tmp_path / "other"
    other.mkdir()
    for tool, arguments, said in (
        ("eval", (), "worst class"),
        ("predict", (elsewhere / "blue.png",), "blue"),
        ("export", ("--output", tmp_path / "deploy", "--format", "paddle"), "deploy"),
        ("train", ("--resume", "auto"), "nothing is left to train"),
    ):
        run = python(command, tool, "-c", saved, *arguments, cwd=other, env=env)
        assert run.returncode == 0 and said in run.stdout, (tool, run.stdout, run.stderr)

    # The same on two processes, killed in the second epoch, and to its end.
    def launched(folder, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2",
             "--log_dir", tmp_path / "logs", command, "train", "-c", config, "--output-dir", folder,
             "-o", "dataloader.train.sampler.batch_size=7", "-o", "log_config.interval=1",
             *arguments],
            cwd=elsewhere, env={**env, "OMP_NUM_THREADS": "1"}, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = launched(whole)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    process = launched(killed)
    wait_for_step(process, killed, 25)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert max(losses(killed)) < 40
    process = launched(killed, "--resume", "auto")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert losses(killed) == losses(whole) and set(losses(whole)) == set(range(1, 41))
    for name, array in weights(whole).items():
        np.testing.assert_array_equal(array, weights(killed)[name], err_msg=name)
