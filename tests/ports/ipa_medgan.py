"""ipA-MedGAN's networks in PyTorch, their modules named as in the specification.

Public tensors: `unet_a.enc1.conv_a.conv.weight`, `d.c1.conv.bias`, in PyTorch's layout.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional


class Norm(nn.Module):
    """Batch norm whose running variance is the batch's, without Bessel's correction."""

    def __init__(self, channels, scale, decay, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if scale else None
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.decay, self.epsilon = decay, epsilon

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, 1 - self.decay)
                self.running_var.lerp_(var, 1 - self.decay)
        over = lambda v: v[:, None, None]
        x = (x - over(mean)) / torch.sqrt(over(var) + self.epsilon)
        if self.weight is not None:
            x = x * over(self.weight)
        return x + over(self.bias)


def keras(channels, scale):
    return Norm(channels, scale, 0.99, 1e-3)


class ConvNorm(nn.Module):
    def __init__(self, before, after, size):
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
        self.bn = keras(after, False)

    def forward(self, x):
        return self.bn(self.conv(x))


class Block(nn.Module):
    """MultiRes block."""

    def __init__(self, before, width):
        super().__init__()
        a, b, c = (int(1.67 * width * share) for share in (0.167, 0.333, 0.5))
        self.out = a + b + c
        self.shortcut = ConvNorm(before, self.out, 1)
        self.conv_a = ConvNorm(before, a, 3)
        self.conv_b = ConvNorm(a, b, 3)
        self.conv_c = ConvNorm(b, c, 3)
        self.bn_cat, self.bn_out = keras(self.out, True), keras(self.out, True)

    def forward(self, x):
        p1 = functional.relu(self.conv_a(x))
        p2 = functional.relu(self.conv_b(p1))
        p3 = functional.relu(self.conv_c(p2))
        h = self.bn_cat(torch.cat([p1, p2, p3], 1))
        return self.bn_out(functional.relu(h + self.shortcut(x)))


class Step(nn.Module):
    """One step of a ResPath."""

    def __init__(self, before, width):
        super().__init__()
        self.shortcut = ConvNorm(before, width, 1)
        self.conv = ConvNorm(before, width, 3)
        self.bn_out = keras(width, True)

    def forward(self, x):
        h = functional.relu(self.conv(x))
        return self.bn_out(functional.relu(h + self.shortcut(x)))


class UNet(nn.Module):
    """MultiRes-UNet."""

    def __init__(self, widths):
        super().__init__()
        self.levels = range(1, len(widths))
        before = 1
        for level, width in zip(self.levels, widths, strict=False):
            block = Block(before, width)
            before = block.out
            steps = len(widths) - level
            path = nn.Sequential()
            for i in range(steps):
                path.add_module(f"step{i}", Step(width if i else before, width))
            setattr(self, f"enc{level}", block)
            setattr(self, f"respath{level}", path)
        self.bottleneck = Block(before, widths[-1])
        before = self.bottleneck.out
        for level in reversed(self.levels):
            width = widths[level - 1]
            up = nn.ConvTranspose2d(before, width, 2, stride=2)
            block = Block(2 * width, width)
            before = block.out
            setattr(self, f"up{level}", up)
            setattr(self, f"dec{level}", block)
        self.head = nn.Conv2d(before, 1, 1)

    def forward(self, x):
        skips = []
        for level in self.levels:
            x = getattr(self, f"enc{level}")(x)
            skips.append(getattr(self, f"respath{level}")(x))
            x = functional.max_pool2d(x, 2)
        x = self.bottleneck(x)
        for level in reversed(self.levels):
            x = torch.cat([getattr(self, f"up{level}")(x), skips.pop()], 1)
            x = getattr(self, f"dec{level}")(x)
        return torch.tanh(self.head(x))


class Generator(nn.Module):
    """[N, 1, H, W] -> the images of both networks."""

    def __init__(self, widths):
        super().__init__()
        self.unet_a, self.unet_b = UNet(widths), UNet(widths)

    def forward(self, damaged):
        first = self.unet_a(damaged)
        return first, self.unet_b(first)


class Layer(nn.Module):
    """Ck."""

    def __init__(self, before, width, stride, normalised):
        super().__init__()
        bias = not normalised
        self.conv = nn.Conv2d(before, width, 4, stride, padding=1, bias=bias)
        self.bn = Norm(width, True, 0.9, 1e-5) if normalised else nn.Identity()

    def forward(self, x):
        return functional.leaky_relu(self.bn(self.conv(x)), 0.2)


class Discriminator(nn.Module):
    """[N, 1, H, W] twice -> logits and features; four widths or six."""

    def __init__(self, widths):
        super().__init__()
        self.count = len(widths)
        for i, (before, width) in enumerate(itertools.pairwise((2, *widths)), 1):
            stride = 1 if i == self.count else 2
            setattr(self, f"c{i}", Layer(before, width, stride, i > 1))
        self.out = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def forward(self, image, damaged):
        x, features = torch.cat([image, damaged], 1), []
        for i in range(1, self.count + 1):
            x = getattr(self, f"c{i}")(x)
            features.append(x)
        return self.out(x), tuple(features)


def randomize(network, seed):
    """Fills every tensor, in place, with numbers that do not blow rounding up.

    Where offsets are around zero and scales around one, sixty layers make a
    difference of 1e-7 one of 1e-3, in this port as well, against itself in float64.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(tensor, mean, scale):
        tensor.copy_(mean + scale * torch.randn(tensor.shape, generator=draw))

    def uniform(tensor, low, high):
        unit = torch.rand(tensor.shape, generator=draw)
        tensor.copy_(low + (high - low) * unit)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Norm):
                normal(module.bias, 0.5, 0.2)
                normal(module.running_mean, 0, 0.2)
                uniform(module.running_var, 0.6, 1.4)
                if module.weight is not None:
                    uniform(module.weight, 0.4, 1.0)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # No two taps of a transposed convolution meet.
                transposed = isinstance(module, nn.ConvTranspose2d)
                fan = module.in_channels if transposed else module.weight[0].numel()
                last = module.out_channels == 1
                normal(module.weight, 0, (0.4 if last else 1) * (2 / fan) ** 0.5)
                if module.bias is not None:
                    normal(module.bias, 0, 0.1)
    return network.eval()


def convert(network):
    """A network's state as Linen collections of numpy arrays."""
    names = {"running_mean": "mean", "running_var": "var"}
    out = {"params": {}, "batch_stats": {}}
    for path, tensor in network.state_dict().items():
        *modules, name = path.split(".")
        module, array = network.get_submodule(".".join(modules)), tensor.numpy().copy()
        if isinstance(module, nn.ConvTranspose2d) and name == "weight":
            name, array = "kernel", array.transpose(2, 3, 0, 1)[::-1, ::-1].copy()
        elif isinstance(module, nn.Conv2d) and name == "weight":
            name, array = "kernel", array.transpose(2, 3, 1, 0).copy()
        elif name == "weight":
            name = "scale"
        tree = out["batch_stats" if name in names else "params"]
        for part in modules:
            tree = tree.setdefault(part, {})
        tree[names.get(name, name)] = array
    return out
