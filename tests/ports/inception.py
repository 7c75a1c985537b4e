"""Inception v3 in PyTorch, its modules named as in pytorch-fid's weight file."""

import functools

import torch
from torch import nn
from torch.nn import functional

mean_pool = functools.partial(
    functional.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False
)
max_pool = functools.partial(functional.max_pool2d, kernel_size=3, stride=1, padding=1)
halve = functools.partial(functional.max_pool2d, kernel_size=3, stride=2)


class Conv(nn.Module):
    def __init__(self, channels, features, size, stride=1, same=True):
        super().__init__()
        padding = (size[0] // 2, size[1] // 2) if same else 0
        self.conv = nn.Conv2d(channels, features, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(features, eps=1e-3)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches side by side, each a chain of stages, a stage of parts side by side.

    A part is (name, features, height, width); a name with * has a stride of 2.
    """

    def __init__(self, channels, branches, pool):
        super().__init__()
        self.branches, self.pool = branches, pool
        for branch in branches:
            width = channels
            for stage in branch:
                for name, features, *size in stage:
                    stride = 2 if "*" in name else 1
                    part = Conv(width, features, size, stride, same=stride == 1)
                    setattr(self, name.replace("*", ""), part)
                width = stage[-1][1]

    def forward(self, x):
        outs = []
        for branch in self.branches:
            y = self.pool(x) if branch[0][0][0] == "branch_pool" else x
            for stage in branch:
                parts = [getattr(self, name.replace("*", "")) for name, *_ in stage]
                y = torch.cat([part(y) for part in parts], dim=1)
            outs.append(y)
        return torch.cat(outs, dim=1)


class Halving(Block):
    def __init__(self, channels, branches):
        super().__init__(channels, branches, None)

    def forward(self, x):
        return torch.cat([super().forward(x), halve(x)], dim=1)


def single(name, features, height=1, width=1):
    return [[(f"branch{name}", features, height, width)]]


def chain(name, *sizes):
    return [[(f"branch{name}_{i}", *size)] for i, size in enumerate(sizes, start=1)]


def fork(name, number):
    name = f"branch{name}_{number}"
    return [[(f"{name}a", 384, 1, 3), (f"{name}b", 384, 3, 1)]]


def block_a(channels, pooled):
    branches = [
        single("1x1", 64),
        chain("5x5", (48, 1, 1), (64, 5, 5)),
        chain("3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        single("_pool", pooled),
    ]
    return Block(channels, branches, mean_pool)


def block_b():
    twice = chain("3x3dbl", (64, 1, 1), (96, 3, 3))
    branches = [
        single("3x3*", 384, 3, 3),
        [*twice, *single("3x3dbl_3*", 96, 3, 3)],
    ]
    return Halving(288, branches)


def block_c(n):
    branches = [
        single("1x1", 192),
        chain("7x7", (n, 1, 1), (n, 1, 7), (192, 7, 1)),
        chain("7x7dbl", (n, 1, 1), (n, 7, 1), (n, 1, 7), (n, 7, 1), (192, 1, 7)),
        single("_pool", 192),
    ]
    return Block(768, branches, mean_pool)


def block_d():
    seven = chain("7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1))
    branches = [
        [*chain("3x3", (192, 1, 1)), *single("3x3_2*", 320, 3, 3)],
        [*seven, *single("7x7x3_4*", 192, 3, 3)],
    ]
    return Halving(768, branches)


def block_e(channels, pool):
    branches = [
        single("1x1", 320),
        [*chain("3x3", (384, 1, 1)), *fork("3x3", 2)],
        [*chain("3x3dbl", (448, 1, 1), (384, 3, 3)), *fork("3x3dbl", 3)],
        single("_pool", 192),
    ]
    return Block(channels, branches, pool)


class InceptionFID(nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, (3, 3), 2, same=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, (3, 3), same=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = Conv(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = Conv(80, 192, (3, 3), same=False)
        self.Mixed_5b = block_a(192, 32)
        self.Mixed_5c = block_a(256, 64)
        self.Mixed_5d = block_a(288, 64)
        self.Mixed_6a = block_b()
        self.Mixed_6b = block_c(128)
        self.Mixed_6c = block_c(160)
        self.Mixed_6d = block_c(160)
        self.Mixed_6e = block_c(192)
        self.Mixed_7a = block_d()
        self.Mixed_7b = block_e(1280, mean_pool)
        self.Mixed_7c = block_e(2048, max_pool)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
        """[B, 3, H, W] in [-1, 1] to every tensor by its name in our network."""
        seen = {}
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = seen["pool1"] = halve(x)
        x = seen["pool2"] = halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e"):
            x = getattr(self, f"Mixed_{name}")(x)
        seen["features768"] = x
        for name in ("7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        x = seen["pool3"] = x.mean(dim=(2, 3))
        seen["logits"] = self.fc(x)
        return seen
