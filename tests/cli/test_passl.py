"""The ``passl`` command: every command line under one name, and its completion."""

import subprocess
import sys

import pytest
from helpers import ROOT

from passl.cli import main as passl
from passl.utils import zoo


def run(*argv):
    done = subprocess.run(
        [sys.executable, "-m", "passl", *argv], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", sorted(passl.COMMANDS))
def test_help_speaks_of_what_was_typed(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["passl", command, "--help"])
    with pytest.raises(SystemExit) as ended:
        passl.main()
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert out.startswith(f"usage: passl {command}") and "example:\n  passl " in out
    assert "tools/" not in out and "scripts/" not in out


@pytest.mark.parametrize("command", sorted(set(passl.COMMANDS) - {"models"}))
def test_help_speaks_of_files_to_who_called_one(command, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["../checkout/tools/train.py"])
    out = passl._command_parser(command).format_help()
    assert f"python ../checkout/tools/{command}.py " in out and f"passl {command}" not in out
    assert ("launch --gpus 0,1 ../checkout/tools/" in out) == (command in ("train", "eval"))


def test_every_tool_of_a_checkout_is_a_command():
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")}
    assert tools | {"models"} == set(passl.COMMANDS)


@pytest.mark.smoke
def test_as_a_process():
    code, out, err = run("models", "mlp_mixer_b16_224.goog_in1k")
    assert code == 0, err
    assert "76.60 / 92.23 by timm" in out and "Mixer-B_16.npz" in out
    code, out, err = run("trian")
    assert (code, out) == (2, "") and "did you mean 'train'?" in err and err.count("\n") == 1


def test_models_lists_all_and_refuses_what_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["passl"])
    assert passl.main(["models"]) == 0
    out = capsys.readouterr().out
    for release in zoo.releases():
        assert release in out
    for config in (ROOT / "configs" / "mlp_mixer").glob("*.yaml"):
        assert f"  {config.stem} " in out
    assert passl.main(["models", "mlp_mixer_b17"]) == 2
    err = capsys.readouterr().err
    assert "no released weights are called 'mlp_mixer_b17'" in err and "did you mean" in err
    assert passl.main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_bash_completes_commands_options_and_choices(tmp_path, capsys):
    assert passl.main(["completion", "bash"]) == 0
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "photos").mkdir()

    def complete(*words):
        listed = " ".join(f"'{word}'" for word in words)
        command = (
            f"source {script}; COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; "
            '_shtab_passl; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=20
        )
        return done.stdout.split()

    assert complete("passl", "ex") == ["export"]
    assert complete("passl", "train", "--dry") == ["--dry-run"]
    assert complete("passl", "benchmark", "in") == ["infer"]
    assert "photos" in complete("passl", "export", "--output", "ph")
