"""What the user sees: a progress bar on a terminal, clean lines elsewhere."""

from __future__ import annotations

from typing import Any, List

from tqdm import tqdm

from passl.hooks.base import HOOKS, Hook, Record, Run
from passl.utils.logging import interactive, logger

_WORTH_SAYING = 0.05  # of the time, waiting for data


@HOOKS.register
class Console(Hook):
    """A tqdm bar over the steps of the whole run, and lines for records and evaluations."""

    def __init__(self):
        self._bar: Any = None

    def on_start(self, run: Run) -> None:
        if interactive():
            self._bar = tqdm(
                total=run.total_steps,
                initial=run.progress.step,
                unit="step",
                dynamic_ncols=True,
                smoothing=0.05,
            )

    def on_step(self, run: Run) -> None:
        if self._bar is not None:
            self._bar.set_description(f"epoch {run.epoch}/{run.cfg.epochs}", refresh=False)
            self._bar.update(run.progress.step - self._bar.n)

    def on_record(self, run: Run, record: Record) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(
                ", ".join(
                    [
                        f"loss {record['loss']:.4f}",
                        f"lr {record['lr']:.2e}",
                        f"{record['images_per_second']:.0f} images/s",
                        *_more(run, record),
                    ]
                ),
                refresh=False,
            )
            return
        rate = record["images_per_second"]
        left = (run.total_steps - record["step"]) * run.global_batch / rate if rate else 0.0
        logger.info(
            "epoch %d/%d  step %d/%d  loss %.4f  lr %.3e  %.1f images/s%s  %s left",
            record["epoch"],
            run.cfg.epochs,
            record["step"],
            run.total_steps,
            record["loss"],
            record["lr"],
            rate,
            "".join(f"  {text}" for text in _more(run, record)),
            tqdm.format_interval(left),
        )

    def on_evaluation(self, run: Run, record: Record) -> None:
        best = run.progress.best
        mark = "  (best so far)" if best is not None and best is record else ""
        logger.info(
            "epoch %d  %s: %s  over %d images%s",
            record["epoch"],
            record["split"],
            run.evaluator.describe(record),
            record["samples"],
            mark,
        )

    def on_end(self, run: Run) -> None:
        if self._bar is not None:
            self._bar.close()


def _more(run: Run, record: Record) -> List[str]:
    """Returns what else a line says, in short: figures, a wait for data, memory.

    Of what is recorded in training it is what the run's evaluator would show of an evaluation.
    """
    figures = {key: value for key, value in record.items() if key != "loss"}
    said = [f"{title} {text}" for title, text in run.evaluator.shown(figures).items()]
    if record.get("step_seconds"):
        share = record["data_seconds"] / record["step_seconds"]
        if share >= _WORTH_SAYING:
            said.append(f"data {100 * share:.0f} %")
    if "memory_mb" in record:
        said.append(f"{record['memory_mb'] / 1024:.1f} GiB")
    return said
