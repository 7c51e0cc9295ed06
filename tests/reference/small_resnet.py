"""A small ResNet in PyTorch, with the names that its layers have here: one block a stage."""

from torch import nn
from torch.nn import functional as F


class ConvNorm(nn.Module):
    def __init__(self, before, after, size, stride, norm):
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
        self.norm = norm(after)

    def forward(self, x):
        return self.norm(self.conv(x))


class Block(nn.Module):
    def __init__(self, before, after, stride, norm):
        super().__init__()
        self.layers = nn.ModuleList(
            [ConvNorm(before, after, 3, stride, norm), ConvNorm(after, after, 3, 1, norm)]
        )
        self.shortcut = None
        if before != after:
            self.shortcut = ConvNorm(before, after, 1, stride, norm)

    def forward(self, x):
        branch = self.layers[1](F.relu(self.layers[0](x)))
        return F.relu(branch + (x if self.shortcut is None else self.shortcut(x)))


class SmallResNet(nn.Module):
    """With the stem for CIFAR: a 3×3 convolution and no pooling.

    Args:
        widths: channels of each stage.
        epsilon: of the batch norms.
        norm: makes a batch norm of so many channels; by default PyTorch's.
    """

    def __init__(self, widths, epsilon=1e-5, norm=None):
        super().__init__()
        norm = norm or (lambda channels: nn.BatchNorm2d(channels, eps=epsilon))
        self.stem = ConvNorm(3, widths[0], 3, 1, norm)
        self.stages = nn.ModuleList()
        before = widths[0]
        for number, after in enumerate(widths):
            self.stages.append(nn.ModuleList([Block(before, after, 2 if number else 1, norm)]))
            before = after
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = F.relu(self.stem(x))
        for stage in self.stages:
            x = stage[0](x)
        return x.mean((2, 3))
