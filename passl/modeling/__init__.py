"""Models: layers, backbones, heads, and the architectures that join them."""
