"""One command, any released file: evaluation and fine-tuning through the command line."""

import json
import os
import pickle

import numpy as np
import paddle
import publishers
import pytest
from helpers import NETWORK, records, run_here

from passl.cli import eval as eval_command
from passl.cli import train as train_command
from passl.modeling.architectures import build_architecture
from passl.weights import WeightFile
from passl.weights.formats import safetensors, torch


def weights(classes=3, seed=0):
    return publishers.own(classes=classes, seed=seed, **NETWORK)


@pytest.fixture
def files(tmp_path):
    """The same weights in every format."""
    arrays = weights()
    made = {name: tmp_path / name for name in (
        "google.npz", "timm.safetensors", "timm.pth", "mmpretrain.pth", "passl_v1.pdparams",
        "wrapped.pdparams", "own.safetensors",
    )}  # fmt: skip
    np.savez(made["google.npz"], **publishers.google(arrays))
    safetensors.write(str(made["timm.safetensors"]), publishers.timm(arrays), {"format": "pt"})
    torch.write(str(made["timm.pth"]), publishers.timm(arrays))
    torch.write(str(made["mmpretrain.pth"]), publishers.mmpretrain(arrays))
    paddle.save(publishers.passl_v1(arrays), str(made["passl_v1.pdparams"]))
    tensors = {f"module.{n}": paddle.to_tensor(a) for n, a in publishers.passl_v1(arrays).items()}
    paddle.save({"state_dict": tensors, "epoch": 3}, str(made["wrapped.pdparams"]))
    safetensors.write_tensor_file(made["own.safetensors"], arrays, {"kind": "weights"})
    return made


@pytest.mark.smoke
def test_every_format_gives_the_same_figures(files, config_file, tmp_path, capsys):
    results = {}
    for name, path in files.items():
        out = tmp_path / f"{name}.json"
        argv = ["-c", config_file(), "--weights", str(path), "--json", str(out)]
        assert eval_command.main(argv) == 0, capsys.readouterr().err
        result = json.loads(out.read_text())
        results[name] = [result[key] for key in ("top1", "top5", "loss", "samples")]
        assert result["samples"] == 13
    assert all(result == results["google.npz"] for result in results.values()), results
    # Other weights give other figures: the numbers above say something.
    other = tmp_path / "other.npz"
    np.savez(other, **publishers.google(weights(seed=3)))
    argv = ["-c", config_file(), "--weights", str(other), "--json", str(tmp_path / "o.json")]
    assert eval_command.main(argv) == 0
    assert json.loads((tmp_path / "o.json").read_text())["loss"] != results["google.npz"][2]


def test_the_name_of_a_file_says_nothing(files, config_file, tmp_path, capsys):
    misleading = tmp_path / "really.safetensors"
    misleading.write_bytes(files["google.npz"].read_bytes())
    assert eval_command.main(["-c", config_file(), "--weights", str(misleading)]) == 0
    assert "30 tensors (npz, google names)" in capsys.readouterr().out


def test_a_pickle_that_would_run_something_runs_nothing(files, config_file, tmp_path):
    """The very bytes that run a command when Paddle's own loader reads them."""
    mark = tmp_path / "it-ran"

    class Exploit:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)

    path = tmp_path / "exploit.pdparams"
    state = {**publishers.passl_v1(weights()), "backbone.norm.bias": Exploit()}
    path.write_bytes(pickle.dumps(state))
    code, out, err = run_here("eval", "-c", config_file(), "--weights", path)
    assert code == 2 and err.count("\n") == 1
    assert "'backbone.norm.bias' can only be made by posix.system, which is never run" in err
    assert not mark.exists()
    # Beside the weights it is left alone, and they are evaluated.
    path.write_bytes(pickle.dumps({"state_dict": publishers.passl_v1(weights()), "a": Exploit()}))
    code, out, err = run_here("eval", "-c", config_file(), "--weights", path)
    assert (code, err) == (0, "") and "over 13 images" in out
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists(), "the exploit is a working one"


@pytest.mark.smoke
def test_fine_tuning_to_other_classes_leaves_out_the_head(config_file, tmp_path, capsys):
    path = tmp_path / "x.npz"
    np.savez(path, **publishers.google(weights(classes=10)))
    out = tmp_path / "run"
    argv = ["-c", config_file(epochs=1), "--output-dir", str(out), "--pretrained", str(path)]
    assert train_command.main(argv) == 0
    assert "its head has 10 classes, the model's 3, so the head begins anew" in (
        capsys.readouterr().out
    )
    # In an evaluation a head that begins anew would answer at random.
    assert eval_command.main(["-c", config_file(), "--weights", str(path)]) == 2
    err = capsys.readouterr().err
    assert "head.fc.weight (file [64, 10], model [64, 3])" in err and err.count("\n") == 1


def test_fine_tuning_begins_at_the_released_weights(files, config_file, tmp_path):
    """With a learning rate of nothing, training ends where the file began."""
    config = config_file(epochs=1, lr_scheduler={"name": "Constant", "learning_rate": 0.0})
    argv = ["-c", config, "--output-dir", str(tmp_path / "run")]
    assert train_command.main([*argv, "--pretrained", str(files["mmpretrain.pth"])]) == 0
    json_file = tmp_path / "e.json"
    argv = ["-c", config, "--weights", str(files["google.npz"]), "--json", str(json_file)]
    assert eval_command.main(argv) == 0
    trained = [r for r in records(tmp_path / "run") if r.get("split") == "val"][-1]
    assert trained["loss"] == json.loads(json_file.read_text())["loss"]


def test_a_linear_probe_by_config(files, config_file, tmp_path):
    out = tmp_path / "run"
    argv = ["-c", config_file(epochs=1), "--output-dir", str(out), "-o", "model.freeze=[backbone]"]
    assert train_command.main([*argv, "--pretrained", str(files["google.npz"])]) == 0
    with WeightFile(out / "checkpoints" / "latest.safetensors") as file:
        model, optimizer = file.read_group("model"), file.read_group("optimizer")
    for name, array in weights().items():
        assert np.array_equal(model[name], array) == name.startswith("backbone."), name
    assert {name.rpartition("/")[0] for name in optimizer} == {"head.fc.weight", "head.fc.bias"}
    argv = ["-c", str(out / "config.yaml"), "--output-dir", str(out), "--resume", "auto"]
    assert train_command.main([*argv, "-o", "epochs=1"]) == 0


def test_partial_loading_is_asked_for(files, config_file, tmp_path, capsys):
    arrays = publishers.google(weights())
    del arrays["pre_head_layer_norm/bias"]
    path = tmp_path / "part.npz"
    np.savez(path, **arrays)
    argv = ["-c", config_file(), "--weights", str(path)]
    assert eval_command.main(argv) == 2
    assert "1 missing in the file: backbone.norm.bias (--allow" in capsys.readouterr().err
    assert eval_command.main([*argv, "--allow-partial"]) == 0
    assert "loaded in part: 1 missing in the file: backbone.norm.bias" in capsys.readouterr().out


def test_the_view_of_a_released_file_is_compared_with_the_configs(files, config_file, tmp_path,
                                                                  capsys):  # fmt: skip
    renamed = tmp_path / "mixer_b16_224_miil-9229a591.pth"
    renamed.write_bytes(files["timm.pth"].read_bytes())
    assert eval_command.main(["-c", config_file(), "--weights", str(renamed)]) == 0
    out = capsys.readouterr().out
    assert "has the name of a file of mlp_mixer_b16_224.miil_in21k_ft_in1k, but not its" in out
    assert "-o preprocessing=mlp_mixer_b16_224.miil_in21k_ft_in1k" in out


def test_another_resolution_from_the_command_line(files, config_file, capsys):
    argv = ["-c", config_file(), "--weights", str(files["timm.pth"]),
            "-o", "model.architecture.img_size=32",
            "-o", "dataloader.val.dataset.transforms.0.size=32"]  # fmt: skip
    assert eval_command.main(argv) == 2
    assert "set -o model.architecture.tokens_mlp_dim=32" in capsys.readouterr().err
    assert eval_command.main([*argv, "-o", "model.architecture.tokens_mlp_dim=32"]) == 0
    assert "token-mixing weights repeated for 2×2 tiles" in capsys.readouterr().out


def test_a_damaged_file_is_one_line(files, config_file, tmp_path, capsys):
    for name, path in files.items():
        broken = tmp_path / f"broken-{name}"
        broken.write_bytes(path.read_bytes()[:-2000])
        assert eval_command.main(["-c", config_file(), "--weights", str(broken)]) == 2, name
        err = capsys.readouterr().err
        assert err.startswith(f"error: {broken}: ") and err.count("\n") == 1, err


def test_a_frozen_backbone_is_as_in_evaluation_while_the_head_learns():
    cfg = {
        "architecture": {"name": "MlpMixer", **NETWORK, "drop_rate": 0.5, "drop_path_rate": 0.5},
        "head": {"name": "ClassificationHead", "num_classes": 3, "init": "normal"},
        "freeze": ["backbone"],
    }
    model = build_architecture(cfg)
    batch = {"image": paddle.randn([4, 3, 16, 16])}
    found = [model(batch)["logits"].numpy()]  # as it is built
    for mode in (model.train, model.eval, model.train):
        mode()
        found.append(model(batch)["logits"].numpy())
    for logits in found[1:]:
        np.testing.assert_array_equal(logits, found[0])
    assert model.head.training and not model.backbone.training
