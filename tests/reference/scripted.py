"""Writes a CLIP of open_clip with random weights as TorchScript, in half precision as OpenAI's.

Into OUT: ``weights.pt``, the program, and ``arrays.npz``, its state_dict as torch has it, float16
where it is so. ``how`` is ``script`` or ``trace``.

    python tests/reference/scripted.py vit trace OUT
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, convert_weights_to_lp

TEXT = CLIPTextCfg(width=64, heads=2, layers=2, vocab_size=100, context_length=12)
IMAGES = {
    "vit": CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=16, image_size=32),
    "resnet": CLIPVisionCfg(layers=[1, 2, 1, 1], width=16, image_size=64),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=IMAGES)
    parser.add_argument("how", choices=["script", "trace"])
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    vision = IMAGES[arguments.network]
    model = CLIP(48, vision, TEXT, quick_gelu=True, output_dict=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    if arguments.how == "script":
        convert_weights_to_lp(model)
        program = torch.jit.script(model)
    else:
        image = torch.zeros(1, 3, vision.image_size, vision.image_size)
        inputs = (image, torch.ones(1, 12, dtype=torch.long))
        program = torch.jit.trace(model, inputs, check_trace=False)
    torch.jit.save(program, arguments.out / "weights.pt")
    arrays = {name: tensor.detach().numpy() for name, tensor in program.state_dict().items()}
    np.savez(arguments.out / "arrays.npz", **arrays)
