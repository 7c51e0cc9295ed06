"""Says what is in images, with a network of one's own or a released one.

python examples/classify.py output/mine cat.jpg photos/
python examples/classify.py mlp_mixer_b16_224.goog_in1k cat.jpg
"""

import sys
from pathlib import Path

import passl


def main(source, places):
    """Prints the three most probable classes of each image."""
    images = []
    for place in map(Path, places):
        images += sorted(place.rglob("*.jpg")) if place.is_dir() else [place]
    predict = passl.Predictor(source, topk=3)
    for answer in predict(images):
        shares = zip(answer.names, answer.probabilities)
        print(answer.path, "  ".join(f"{name} {100 * share:.1f} %" for name, share in shares))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
