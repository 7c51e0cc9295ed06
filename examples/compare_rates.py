"""Trains with several learning rates and says which was best; run again, it goes on.

python examples/compare_rates.py mlp-mixer_own_images output/rates 3e-4 1e-3 3e-3
"""

import sys

import passl


def main(config, folder, rates):
    """Makes a run for each rate and compares their best evaluations."""
    best = {}
    for rate in rates:
        overrides = [f"output_dir={folder}/{rate}", f"lr_scheduler.learning_rate={rate}"]
        passl.train(config, overrides, resume="auto")
        records = passl.load_run(f"{folder}/{rate}").records
        best[rate] = max(record["top1"] for record in records if record.get("split") == "val")
    for rate, top1 in best.items():
        print(f"rate {rate}: Top-1 {top1:.2f} % on the validation images")
    print(f"the best: {max(best, key=best.get)}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
