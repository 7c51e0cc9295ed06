"""Reads weight files in a process of its own, and watches what else that does.

All that a reading may do is read its file: any other event that Python's audit hooks tell of (an
import, compiled or executed code, a process, a socket, another file) is noted.
"""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_HERE = Path(__file__).resolve().parent

# A reading that takes more of the processor than this is stopped, and counts as failed.
_SECONDS = 20.0
# A reading that asks for more memory at once than this is refused it: for the machine's sake.
_MEMORY = 3 << 30

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class TooSlow(BaseException):
    """Not an Exception: no reader may take it for a damaged file."""


class Watch:
    """Notes the audit events of this process while a file is being read."""

    def __init__(self):
        self.path, self.noted = None, []
        sys.addaudithook(self._note)

    def _note(self, event, arguments):
        if self.path is None or event == "builtins.id":
            return
        if event == "open" and arguments[0] == self.path and not arguments[2] & _WRITING:
            return
        self.noted.append(f"{event} {arguments[:2]}"[:200])


def peak():
    """Returns the most memory that this process has held, in MiB."""
    try:  # getrusage's figure begins with that of the parent process
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read(path, watch):
    """Reads all tensors of a file, and their names; returns what came of it."""
    from passl.modeling.backbones.mlp_mixer import MlpMixer
    from passl.utils.errors import PasslError
    from passl.weights import WeightFile
    from passl.weights.naming import translate

    watch.noted = []
    before, began = peak(), time.process_time()
    shapes, refused, error, unknown, crash = {}, {}, None, None, None
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    watch.path = path
    try:
        with WeightFile(path) as file:
            refused = file.refused_under(file.key)
            file.averages()
            for key, group in file.groups.items():
                for name, array in group.items():
                    with file.reading(name):
                        numbers = array.read()
                    assert numbers.shape == array.shape and numbers.dtype == array.dtype
                    shapes[f"{key}:{name}"] = list(numbers.shape)
            try:
                translate(file, MlpMixer.released_names)
            except PasslError as why:
                unknown = str(why)
    except PasslError as why:
        error = str(why)
    except BaseException as other:
        crash = f"{type(other).__name__}: {other}"[:300]
    finally:
        watch.path = None
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {
        "error": error,
        "unknown": unknown,
        "crash": crash,
        "shapes": shapes,
        "refused": refused,
        "noted": list(watch.noted),
        "seconds": time.process_time() - began,
        "growth": peak() - before,
    }


def problem(path, result):
    """Returns what is wrong with a result besides the file; None if nothing is."""
    if result["noted"]:
        return f"did more than read: {result['noted'][:3]}"
    if result["crash"]:
        return f"crashed: {result['crash']}"
    message = result["error"] or result["unknown"] or f"{path}: "
    if not message.startswith(f"{path}: "):
        return f"its message does not begin with the file: {message[:200]!r}"
    if not message[len(path) :].isprintable():
        return f"its message is not one line of text: {message[:200]!r}"
    if "more memory than there is" in message:
        return "asked for gigabytes"
    return None


def _mutants(job, watch):
    from mutations import mutate

    seeds = [(path, Path(path).read_bytes()) for path in job["seeds"]]
    contents = [data for _, data in seeds]
    counts = {path: {"read": 0, "refused": 0} for path, _ in seeds}
    problems, reasons, slowest, start = [], set(), 0.0, peak()
    target = job["target"]
    for number in range(job["first"], job["first"] + job["count"]):
        rng = random.Random(f"{job['seed']} {number}")
        path, data = rng.choice(seeds)
        Path(target).write_bytes(mutate(data, rng, contents))
        result = read(target, watch)
        wrong = problem(target, result)
        if wrong:
            problems.append(f"input {number}, from {Path(path).name}: {wrong}")
        counts[path]["refused" if result["error"] else "read"] += 1
        reason = (result["error"] or "").partition("(")[2]
        reasons.add(" ".join(re.findall("[a-z]{2,}", reason)[:4]))
        slowest = max(slowest, result["seconds"])
    return {
        "counts": {Path(path).name: count for path, count in counts.items()},
        "problems": problems,
        "reasons": sorted(reasons),
        "slowest": slowest,
        "growth": peak() - start,
    }


def _main():
    sys.path.insert(0, str(_HERE.parent))
    import passl  # noqa: F401  before anything imports paddle

    def stop(*_):
        raise TooSlow(f"took more than {_SECONDS:.0f} seconds")

    signal.signal(signal.SIGPROF, stop)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, resource.RLIM_INFINITY))
    watch = Watch()
    for line in sys.stdin:
        job = json.loads(line)
        answer = _mutants(job, watch) if "seeds" in job else read(job["path"], watch)
        print(json.dumps(answer), flush=True)


class WatchedReader:
    """The other process, from here.

    Args:
        folder: where it works; whatever a file makes it write would be found there.
        warm: files to read first: what is loaded on first use (codecs, libraries) is no finding.
    """

    def __init__(self, folder, warm):
        self.folder, self._warm, self._process = folder, [str(path) for path in warm], None

    def read(self, path):
        """Returns what came of reading a file."""
        return self.ask({"path": str(path)}, 120)

    def ask(self, job, seconds):
        """Has it do a job; kills it after so many seconds."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        return self._ask(job, seconds)

    def _start(self):
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )
        for path in self._warm:
            assert not self._ask({"path": path}, 120)["crash"], path

    def _ask(self, job, seconds):
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not answer.startswith("{"):  # of a crash of the interpreter, Paddle says so here
            status = self._process.wait()
            raise AssertionError(f"the reading process ended with status {status}: {job}")
        return json.loads(answer)

    def close(self):
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()


if __name__ == "__main__":
    _main()
