"""Names that are no text, consoles without the letters, and ``~``: nothing of it ends a command."""

import importlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from passl.cli import main as passl_main
from passl.cli.common import FILES, FOLDERS, config_of, make_parser, run_command
from passl.utils import environment
from passl.utils.commands import word
from passl.utils.config import get_config
from passl.utils.errors import PasslError, shown
from passl.utils.home import expanded
from passl.utils.strict_json import to_json
from passl.utils.text import accept_all_text, as_text, path_in_text, visible

GBK = os.fsdecode("苹果".encode("gbk"))  # what Python makes of such a name on Linux


# ---------------------------------------------------------------- text


def test_a_message_shows_every_name_in_the_same_way():
    for name in ("apple 苹果 🍎", GBK):
        assert shown(name) == as_text(name)
    assert shown("a\r\n") == repr("a\r\n")


@pytest.mark.smoke
def test_names_become_text():
    assert as_text("apple 苹果 🍎\n") == "apple 苹果 🍎\n"
    assert as_text(os.fsdecode(b"a\xff\xfeb")) == r"a\xff\xfeb"
    assert as_text("\ud800") == r"\ud800"  # which no file is called
    as_text(GBK).encode("utf-8")
    # Where the locale is plain ASCII, Python takes good UTF-8 for odd bytes as well.
    assert as_text("苹果".encode().decode("ascii", "surrogateescape")) == "苹果"


def test_what_cannot_be_seen_is_written_out():
    assert (
        visible("a\r\ufeff\x1b[31m\u200b b\nc 苹果 ×")
        == r"a\r\ufeff\x1b[31m\u200b b" + "\nc 苹果 ×"
    )


def test_json_has_letters_as_themselves():
    text = to_json({"names": ("苹果", GBK), GBK: 1.5, "none": None})
    assert "苹果" in text
    text.encode("utf-8")
    assert json.loads(text) == {"names": ["苹果", as_text(GBK)], as_text(GBK): 1.5, "none": None}


def test_a_folder_gets_a_path_in_text(tmp_path):
    with path_in_text(tmp_path / "苹果") as same:
        assert same == tmp_path / "苹果"
    folder = tmp_path / GBK
    folder.mkdir()
    with path_in_text(folder) as other:
        str(other).encode("utf-8")
        (other / "file").write_text("x", encoding="utf-8")
    assert [p.name for p in folder.iterdir()] == ["file"] and not other.parent.exists()


# ---------------------------------------------------------------- streams


@pytest.fixture
def streams(monkeypatch):
    """Puts streams of an encoding in the place of the process's; returns what comes out."""

    def put(encoding, given=b""):
        out, err = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding, write_through=True))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding, write_through=True))
        monkeypatch.setattr(sys, "argv", ["passl"])  # which passl sets
        monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding, newline="\n")
        )
        return out, err

    return put


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "gbk"])
def test_the_streams_take_and_give_all_text(streams, encoding):
    lines = [b"\xca\xfd.jpg\r\n", b"\xe8\x8b\xb9.jpg\n"]
    out, err = streams(encoding, b"".join(lines))
    accept_all_text()
    accept_all_text()  # and a second command in the same process
    for stream in (sys.stdout, sys.stderr):
        print("苹 ×", os.fsdecode(b"\xff"), file=stream)
    can = encoding in ("utf-8", "gbk")
    for stream in (out, err):
        words = stream.getvalue().decode(encoding)
        assert words.startswith("苹 ×" if can else r"\u82f9 ") and r" \xff" in words
    assert [os.fsencode(line) for line in sys.stdin] == lines
    accept_all_text()  # after the first read


@pytest.mark.parametrize("command", [*sorted(passl_main.COMMANDS), "main"])
def test_help_on_any_console(streams, command):
    out, _ = streams("ascii")
    with pytest.raises(SystemExit) as ended:
        module = importlib.import_module(f"passl.cli.{command}")  # as tools/*.py does
        module.main(["--help"])
    assert ended.value.code == 0 and b"usage" in out.getvalue()


def test_a_word_of_a_command_is_the_name_again_in_a_shell():
    for name in ("plain", "two words", "it's", "苹果", os.fsdecode(b"\xc6\xbb's \\x")):
        said = subprocess.run(
            ["bash", "-c", f"printf %s {word(name)}"], capture_output=True, check=True
        )
        assert said.stdout == os.fsencode(name)
        word(name).encode("utf-8")


def test_lists_on_any_console(streams):
    out, _ = streams("ascii")
    assert passl_main.main(["models"]) == 0
    assert rb"\u2013 the authors" in out.getvalue()
    out, _ = streams("ascii")
    with pytest.raises(SystemExit):
        passl_main.main(["eval", "--list"])
    assert b"mlp_mixer" in out.getvalue()


def test_errors_on_any_console(streams):
    def fail(arguments):
        raise PasslError(f"{GBK}\r: there is no such file")

    _, err = streams("utf-8")
    assert run_command(fail, make_parser("", ""), []) == 2
    assert err.getvalue().decode() == f"error: {as_text(GBK)}\\r: there is no such file\n"


# ---------------------------------------------------------------- ~


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.smoke
def test_the_home_folder(home, monkeypatch):
    assert expanded("~/x/y") == f"{home}/x/y" and expanded("~") == str(home)
    assert expanded("~root") == os.path.expanduser("~root") != "~root"
    for same in ("a~/x", "./~/x", "~*.tar", "~$letter.jpg", ""):
        assert expanded(same) == same
    with pytest.raises(PasslError, match="no user 'nobody-of-that-name'"):
        expanded("~nobody-of-that-name/x")
    monkeypatch.chdir(home)
    name = "~nobody-of-that-name"
    Path(name).touch()
    assert expanded(name) == name  # a file that is called so, as in a shell
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # neither HOME nor an account
    Path("~", "x").mkdir(parents=True)  # of an earlier mistake
    with pytest.raises(PasslError, match="HOME"):
        expanded("~/x")


# What takes text that is no path.
NO_PATHS = {"KEY=VALUE", "KEY", "PUBLISHER", "NAME", "FORMAT", "WORDS", "NAMES", "TEXT"}


@pytest.mark.parametrize("command", sorted(passl_main.COMMANDS))
def test_every_path_of_the_command_lines(command, home):
    parser = importlib.import_module(f"passl.cli.{command}")._parser()
    for action in parser._actions:
        if action.nargs == 0 or action.type is not None or action.choices:
            continue
        if action.metavar in NO_PATHS:
            continue
        assert action.metavar in (*FILES, *FOLDERS), f"{action.dest}: is it a path?"
        got = []
        words = [
            given(other, "~/x" if other is action else None)
            for other in parser._actions
            if other.required or other is action
        ]
        assert run_command(got.append, parser, words) == 0
        value = getattr(got[0], action.dest)
        assert value in (f"{home}/x", [f"{home}/x"]), action.dest


def given(action, value=None):
    """An argument on the command line."""
    value = value or (list(action.choices)[0] if action.choices else action.dest)
    return f"{action.option_strings[-1]}={value}" if action.option_strings else value


def test_an_unknown_home_is_an_error_of_one_line(capsys):
    parser = importlib.import_module("passl.cli.train")._parser()
    argv = ["-c", "mlp-mixer_cifar10", "--output-dir=~nobody-of-that-name/x"]
    assert run_command(config_of, parser, argv) == 2
    line = capsys.readouterr().err
    assert (
        line.startswith("error: --output-dir: ~nobody-of-that-name/x: ") and line.count("\n") == 1
    )


def test_every_path_of_a_config(home, tmp_path):
    (tmp_path / "sub").mkdir()
    Path(tmp_path, "sub", "base.yaml").write_text(
        "model: {name: Classifier}\n"
        "dataloader: {val: {dataset: {name: ImageList, dataroot: ~/data, list_file: '~/l.txt'},\n"
        "  sampler: {batch_size: 2}}}\n",
        encoding="utf-8",
    )
    Path(tmp_path, "run.yaml").write_text("_base_: ~/sub/base.yaml\n", encoding="utf-8")
    cfg = get_config("~/run.yaml", ["output_dir=~/out", "hooks=[{name: X, file: ~/f}]"])
    dataset = cfg.dataloader.val.dataset
    assert (dataset.dataroot, dataset.list_file) == (f"{home}/data", f"{home}/l.txt")
    assert cfg.output_dir == f"{home}/out" and cfg.hooks[0].file == f"{home}/f"
    assert "~" not in cfg.to_yaml()
    with pytest.raises(PasslError, match="^-o output_dir=~nobody-of-that-name/x: "):
        get_config("~/run.yaml", ["output_dir=~nobody-of-that-name/x"])


def test_a_checkout_in_such_a_folder_knows_its_commit(tmp_path, monkeypatch):
    root = tmp_path / GBK
    (root / "passl" / "utils").mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(root / "passl" / "utils" / "environment.py"))
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    assert re.fullmatch("[0-9a-f]{40}", environment.source_revision())
