"""RNON's networks in PyTorch, layer by layer from the tables of its specification.

Modules are named as in the specification's tree, so that a state converts by name
alone. The mask of a partial convolution has one channel for each feature and is
counted by a convolution with ones, which is the literal form of the rule.
"""

import torch
from torch import nn
from torch.nn import functional


class PartialConv(nn.Conv2d):
    def forward(self, x, mask):
        ones = torch.ones_like(self.weight[:1])
        pads = {"stride": self.stride, "padding": self.padding}
        with torch.no_grad():
            count = functional.conv2d(mask, ones, **pads)
            valid = count.clamp(0, 1)
            ratio = ones.numel() / (count + 1e-8) * valid
        y = functional.conv2d(x * mask, self.weight, **pads) * ratio
        if self.bias is not None:
            y = (y + self.bias.view(1, -1, 1, 1)) * valid
        return y, valid.expand_as(y)


class Norm(nn.BatchNorm2d):
    """Keeps the running variance without Bessel's correction, as Flax does."""

    def forward(self, x):
        kept = (1 - self.momentum) * self.running_var
        y = super().forward(x)
        if self.training:
            count = x.numel() / x.shape[1]
            self.running_var = kept + (self.running_var - kept) * (count - 1) / count
        return y


def layer(**modules):
    return nn.ModuleDict({k: m for k, m in modules.items() if m is not None})


class RepairGenerator(nn.Module):
    def __init__(self, widths, kernels):
        super().__init__()
        self.depth = len(widths)
        before = 3
        for i, (width, k) in enumerate(zip(widths, kernels, strict=True), start=1):
            conv = PartialConv(before, width, k, 2, k // 2, bias=i == 1)
            bn = Norm(width) if i > 1 else None
            setattr(self, f"enc{i}", layer(pconv=conv, bn=bn))
            before = width
        skips = [3, *widths]
        for i in range(self.depth):  # from the innermost to the last, dec8
            skip = skips[self.depth - 1 - i]
            last = i == self.depth - 1
            out = 3 if last else skip
            conv = PartialConv(before + skip, out, 3, 1, 1, bias=last)
            name = f"dec{8 - self.depth + 1 + i}"
            setattr(self, name, layer(pconv=conv, bn=None if last else Norm(out)))
            before = out
        self.head = nn.Conv2d(3, 3, 1)

    def forward(self, image, valid):
        """[B, 3, H, W] and [B, 1, H, W] to the image and its last mask."""
        x, mask = image, valid.expand_as(image)
        kept = [(x, mask)]
        for i in range(1, self.depth + 1):
            parts = getattr(self, f"enc{i}")
            x, mask = parts["pconv"](x, mask)
            if "bn" in parts:
                x = parts["bn"](x)
            x = functional.relu(x)
            kept.append((x, mask))
        kept.pop()
        for j in range(9 - self.depth, 9):
            parts = getattr(self, f"dec{j}")
            skip, skip_mask = kept.pop()
            x, mask = (functional.interpolate(t, scale_factor=2) for t in (x, mask))
            x = torch.cat([x, skip], 1)
            x, mask = parts["pconv"](x, torch.cat([mask, skip_mask], 1))
            if "bn" in parts:
                x = functional.leaky_relu(parts["bn"](x), 0.2)
        return torch.sigmoid(self.head(x)), mask


class Discriminator(nn.Module):
    def __init__(self, widths, hidden, cells):
        """`cells` in the last map for a flat input; None for the mean over them."""
        super().__init__()
        self.blocks, self.flat = len(widths), cells is not None
        before = 3
        for i, width in enumerate(widths, start=1):
            stride = 1 if i % 2 else 2
            conv = nn.Conv2d(before, width, 3, stride, 1, bias=i == 1)
            bn = Norm(width) if i > 1 else None
            setattr(self, f"b{i}", layer(conv=conv, bn=bn))
            before = width
        self.fc1 = nn.Linear(before * cells if self.flat else before, hidden)
        self.fc2 = nn.Linear(hidden, 1)

    def forward(self, x):
        for i in range(1, self.blocks + 1):
            parts = getattr(self, f"b{i}")
            x = parts["conv"](x)
            if "bn" in parts:
                x = parts["bn"](x)
            x = functional.leaky_relu(x, 0.2)
        # Height, width, channels: the order that the tables name.
        x = x.permute(0, 2, 3, 1).flatten(1) if self.flat else x.mean((2, 3))
        return self.fc2(functional.leaky_relu(self.fc1(x), 0.2))


class OptimizationGenerator(nn.Module):
    def __init__(self, width, blocks, rates, fusion_kernel, norm, image_residual):
        super().__init__()
        self.rates, self.image_residual = rates, image_residual

        def conv(before, after, k, rate=1, bias=not norm):
            return nn.Conv2d(before, after, k, 1, rate * (k // 2), rate, bias=bias)

        def normed(name, module):
            return {name: module, f"{name}_bn": Norm(width) if norm else None}

        self.stem = conv(3, width, 9, bias=True)
        self.blocks = blocks
        for i in range(1, blocks + 1):
            parts = {}
            for rate in rates:
                parts |= normed(f"d{rate}", conv(width, width, 3, rate))
            parts |= normed("fuse", conv(width * len(rates), width, fusion_kernel))
            setattr(self, f"block{i}", layer(**parts))
        self.trunk = conv(width, width, 3)
        self.trunk_bn = Norm(width) if norm else None
        self.head = conv(width, 3, 9, bias=True)

    def forward(self, image):
        def run(parts, name, x):
            x = parts[name](x)
            return parts[f"{name}_bn"](x) if f"{name}_bn" in parts else x

        stem = functional.relu(self.stem(image))
        u = stem
        for i in range(1, self.blocks + 1):
            parts = getattr(self, f"block{i}")
            b = [functional.relu(run(parts, f"d{rate}", u)) for rate in self.rates]
            u = u + run(parts, "fuse", torch.cat(b, 1))
        h = self.trunk(u)
        if self.trunk_bn is not None:
            h = self.trunk_bn(h)
        out = self.head(h + stem)
        if self.image_residual:
            return (image + out).clamp(0, 1)
        return torch.sigmoid(out)


PARAMS = {"weight": "kernel", "bias": "bias"}
STATISTICS = {"running_mean": "mean", "running_var": "var"}


def convert(tensors):
    """Tensors by their name in a port to variables of our network, in float32."""
    variables = {"params": {}, "batch_stats": {}}
    for name, tensor in tensors.items():
        *path, kind = name.split(".")
        if kind == "num_batches_tracked":
            continue
        array = tensor.detach().numpy().astype("float32")
        if kind in STATISTICS:
            tree, leaf = variables["batch_stats"], STATISTICS[kind]
        else:
            tree, leaf = variables["params"], PARAMS[kind]
            if path[-1].endswith("bn") and kind == "weight":
                leaf = "scale"
            elif array.ndim == 4:
                array = array.transpose(2, 3, 1, 0)
            elif array.ndim == 2:
                array = array.T
        for part in path:
            tree = tree.setdefault(part, {})
        tree[leaf] = array
    return {k: v for k, v in variables.items() if v}
