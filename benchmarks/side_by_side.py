"""Two processes that take turns at the same work, so that what slows the machine slows both."""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time


def serve(doing, versions, told=None):
    """Answers lines of what to do and how often with seconds for each time.

    Args:
        doing: what can be asked for, functions by name.
        versions: of the libraries, told first.
        told: functions by name that give a number, which is the answer.
    """
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        what, times = line.split()
        if told and what in told:
            print(told[what](), flush=True)
            continue
        started = time.perf_counter()
        for _ in range(int(times)):
            doing[what]()
        print((time.perf_counter() - started) / int(times), flush=True)


def memory(field):
    """Returns bytes of this process: ``VmRSS`` now, or ``VmHWM``, the most so far."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return 1024 * int(re.search(field + r":\s+(\d+)", file.read())[1])


class Side:
    """A process, started by ``command``, that ``serve`` answers in."""

    def __init__(self, command):
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.versions = json.loads(self._process.stdout.readline())

    def seconds(self, what, times):
        """Returns the answer: seconds for each time, or the number that was asked for."""
        self._process.stdin.write(f"{what} {times}\n")
        return float(self._process.stdout.readline())

    def end(self):
        self._process.stdin.close()
        self._process.wait()


def compare(ours, theirs, whats, arguments, told=()):
    """Returns the versions, and of each work milliseconds of both sides and their ratio.

    A ratio is the median over the turns of their seconds to ours in that turn.

    Args:
        ours, theirs: (name, command) of the sides.
        whats: names of what they can be asked for.
        arguments: with ``steps`` of a turn, ``repeats`` turns, and ``warmup`` steps before them.
        told: names of numbers that are asked for after the first work, and stand in the row too.
    """
    sides = {name: Side(command) for name, command in (ours, theirs)}
    row = {"versions": {k: v for side in sides.values() for k, v in side.versions.items()}}
    for what in whats:
        turns = {name: [] for name in sides}
        for side in sides.values():
            side.seconds(what, arguments.warmup)
        for _ in range(arguments.repeats):
            for name, side in sides.items():
                turns[name].append(side.seconds(what, arguments.steps))
        ratios = [there / here for there, here in zip(turns[theirs[0]], turns[ours[0]])]
        row[what] = {
            **{name: 1e3 * statistics.median(seconds) for name, seconds in turns.items()},
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
        }
        for number in told if what == whats[0] else ():
            row[number] = {name: side.seconds(number, 1) for name, side in sides.items()}
    for side in sides.values():
        side.end()
    return row


def options(parser, steps, repeats, warmup, threads):
    """Adds the options that such a comparison has."""
    parser.add_argument("--steps", type=int, default=steps, help="a turn")
    parser.add_argument("--repeats", type=int, default=repeats, help="turns")
    parser.add_argument("--warmup", type=int, default=warmup, help="steps before the first turn")
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--json", metavar="FILE")
    # What a side's own process is told: what to serve, and which side it is.
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
