"""Two hosts, each a network namespace with its own address and host name, and a cable to pull."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import (
    ROOT,
    STEPS,
    assert_same_run,
    config_for_many,
    evaluations,
    losses,
    run_here,
    wait_for_step,
    write_images,
)

ADDRESSES = {"host-a": "10.77.0.1", "host-b": "10.77.0.2"}
FIRST, SECOND = ADDRESSES
MASTER = f"{ADDRESSES[FIRST]}:6170"


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class Hosts:
    """Two namespaces joined by a pair of virtual interfaces."""

    def __init__(self, folder):
        self._folder, self._runs = folder, 0
        self._spaces = {host: f"passl-{os.getpid()}-{host}" for host in ADDRESSES}
        self._names = folder / "hosts"
        # As Debian writes it: a host's own name leads nowhere.
        self._names.write_text(f"127.0.0.1 localhost\n127.0.1.1 {' '.join(ADDRESSES)}\n")

    def set_up(self):
        """Raises OSError or SubprocessError where this machine does not allow it."""
        for space in self._spaces.values():
            ip("netns", "add", space)
        first, second = self._spaces.values()
        ip("link", "add", "net0", "netns", first, "type", "veth",
           "peer", "name", "net0", "netns", second)  # fmt: skip
        for host, space in self._spaces.items():
            ip("-n", space, "address", "add", f"{ADDRESSES[host]}/24", "dev", "net0")
            for interface in ("lo", "net0"):
                ip("-n", space, "link", "set", interface, "up")
        for host in ADDRESSES:
            subprocess.run(self._command(host, "true"), check=True, capture_output=True, timeout=20)

    def clean_up(self):
        """Ends every process of both hosts and takes them away."""
        for space in self._spaces.values():
            with contextlib.suppress(OSError):  # it is not there
                for pid in ip("netns", "pids", space).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                ip("netns", "delete", space)

    def plug(self, up):
        """Puts the cable of the second host in, or pulls it."""
        ip("-n", self._spaces[SECOND], "link", "set", "net0", "up" if up else "down")

    def _command(self, host, *command):
        """A command as on a host: with its network, host name and names of the others."""
        setting = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'
        return ["ip", "netns", "exec", self._spaces[host], "unshare", "--uts", "bash", "-c",
                setting, str(self._names), host, *map(str, command)]  # fmt: skip

    def train(self, *arguments):
        """Starts the same command on both; returns the processes and the folders of their logs."""
        self._runs += 1
        processes, logs = {}, {}
        for host in ADDRESSES:
            logs[host] = self._folder / f"logs-{self._runs}-{host}"
            script = (
                "bash", ROOT / "scripts" / "train_dist.sh", "--processes", "1", "--nnodes", "2",
                "--master", MASTER, "--log-dir", logs[host], *arguments,
            )  # fmt: skip
            with open(f"{logs[host]}.out", "w") as out:
                processes[host] = subprocess.Popen(
                    self._command(host, *script),
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHON": sys.executable},
                )
        return processes, logs

    def running(self):
        """Returns the processes of both hosts."""
        return [
            pid for space in self._spaces.values() for pid in ip("netns", "pids", space).split()
        ]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    missing = [tool for tool in ("ip", "unshare", "mount") if not shutil.which(tool)]
    if not sys.platform.startswith("linux") or missing:
        pytest.skip(f"two hosts need Linux, ip, unshare and mount; missing: {missing}")
    hosts = Hosts(tmp_path_factory.mktemp("hosts"))
    try:
        try:
            hosts.set_up()
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None)
            pytest.skip(f"network namespaces cannot be made here: {error} {said or ''}")
        yield hosts
    finally:
        hosts.clean_up()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Writes ``config_for_many``, with images that take long enough for the cable to be pulled."""
    images = write_images(tmp_path_factory.mktemp("images"), size=(200, 200))

    def write(batch_size):
        path = tmp_path_factory.mktemp("config") / "small.yaml"
        path.write_text(yaml.safe_dump(config_for_many(images, batch_size)))
        return path

    return write


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    code, _, err = run_here("train", "-c", config(64), "--output-dir", folder)
    assert code == 0, err
    return folder


def ended(processes, logs, seconds):
    """Waits for both hosts; returns their exit codes and what their processes said."""
    deadline = time.monotonic() + seconds
    for host, process in processes.items():
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pytest.fail(f"{host} has not ended within {seconds} s: {said(logs[host])}")
    return (
        [process.returncode for process in processes.values()],
        [said(folder) for folder in logs.values()],
    )


def said(logs):
    worker = logs / "workerlog.0"
    return worker.read_text() if worker.exists() else Path(f"{logs}.out").read_text()


def pull(hosts, processes, logs, folder):
    """Pulls the cable in the middle of a run; returns the last step that it recorded."""
    try:
        wait_for_step(processes[FIRST], folder, 6)
    except AssertionError as error:
        raise AssertionError([said(folder) for folder in logs.values()]) from error
    hosts.plug(False)
    time.sleep(1)  # a step that had its gradients already is recorded still
    return max(losses(folder))


@pytest.mark.full
def test_two_hosts_that_lose_sight_of_each_other_for_a_while_give_the_same_answer(
    hosts, alone, config, tmp_path
):
    """8 s without a network: below parallel.lost_after (28 s), and gloo's 30 s."""
    folder = tmp_path / "run"
    processes, logs = hosts.train("-c", config(32), "--output-dir", folder)
    step = pull(hosts, processes, logs, folder)
    time.sleep(7)
    assert max(losses(folder)) == step < STEPS, "it was cut off, and waits"
    hosts.plug(True)
    codes, texts = ended(processes, logs, 60)
    assert codes == [0, 0], texts
    assert "on 2 processes" in texts[0] and "step 21/21" not in texts[1]
    assert {path.name for path in folder.glob("train.*log")} == {"train.log", "train.process1.log"}
    assert [samples for _, samples, _ in evaluations(folder)] == [13, 3]
    assert_same_run(folder, alone)


@pytest.mark.full
def test_cut_off_for_good_both_hosts_end_and_name_each_other(hosts, alone, config, tmp_path):
    """Within 40 s with parallel.lost_after=6; after that the same command goes on."""
    folder = tmp_path / "run"
    arguments = ("-c", config(32), "--output-dir", folder, "-o", "parallel.lost_after=6")
    processes, logs = hosts.train(*arguments)
    step = pull(hosts, processes, logs, folder)
    codes, texts = ended(processes, logs, 40)
    assert codes == [75, 75], texts
    deadline = time.monotonic() + 5  # the scripts' own children end after them
    while hosts.running() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert hosts.running() == []
    for text, other in zip(texts, ("process 1 on host-b", "process 0 on host-a")):
        assert f"{other} has not been heard of for 6 s (parallel.lost_after)" in text
        assert "--resume auto" in text
    assert max(losses(folder)) == step < STEPS
    hosts.plug(True)
    processes, logs = hosts.train(*arguments)
    codes, texts = ended(processes, logs, 60)
    assert codes == [0, 0], texts
    assert "resumed from" in texts[0]
    assert_same_run(folder, alone)
