"""A training loop of one's own, of Paddle alone, around a network and the data of PASSL.

    python examples/own_loop.py mlp-mixer_own_images 2

It is for what the engine does not do. The engine accumulates, averages, resumes to the bit, and
works on several processes; this loop does not.
"""

import sys

import paddle

import passl
from passl.datasets import TrainingBatches, build_dataset, section_loader
from passl.modeling.architectures import build_architecture
from passl.utils.config import with_classes


def main(config, epochs):
    """Trains for some epochs and prints the mean loss of each."""
    cfg = passl.get_config(config)
    section = cfg.dataloader.train
    dataset = build_dataset(section.dataset)
    cfg = with_classes(cfg, len(dataset.class_names))
    paddle.seed(cfg.seed)
    network = build_architecture(cfg.model)
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=network.parameters())
    batch = section.sampler.batch_size
    steps = len(dataset) // batch
    batches = TrainingBatches(len(dataset), batch, batch, cfg.seed, 0, epochs * steps, 1, 0, 1)
    loader = section_loader(section, dataset, batches, batch_rng=batches.rng)
    network.train()
    total = 0.0
    for step, fields in enumerate(loader, start=1):
        loss = network(fields)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        total += loss.item()
        if step % steps == 0:
            print(f"epoch {step // steps}: loss {total / steps:.4f}")
            total = 0.0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], int(sys.argv[2]))
