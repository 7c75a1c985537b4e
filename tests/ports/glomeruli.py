"""The glomerulus paper's networks in PyTorch, their modules named as ours.

All take NCHW; the segmenters take normalised levels, the generator the blanked image
and the mask in four channels. Swin-Unet is in `glomeruli_swin`.
"""

import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jaxinpaint.features.convert import convert as convert_layers
from jaxinpaint.features.efficientnet import B3, encoder_layers
from tests.ports.efficientnet import EfficientNetB3


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)


def leaky(x):
    return functional.leaky_relu(x, 0.2)


class AOTBlock(nn.Module):
    def __init__(self, channels, rates):
        super().__init__()
        self.rates = rates
        for rate in rates:
            branch = nn.Sequential(
                nn.ReflectionPad2d(rate),
                nn.Conv2d(channels, channels // len(rates), 3, dilation=rate),
                nn.ReLU(),
            )
            setattr(self, f"branch_{rate}", branch)
        for name in ("fuse", "gate"):
            pad, conv = nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3)
            setattr(self, name, nn.Sequential(pad, conv))

    def forward(self, x):
        fused = self.fuse(
            torch.cat([getattr(self, f"branch_{r}")(x) for r in self.rates], 1)
        )
        weight = self.gate(x)
        mean = weight.mean((2, 3), keepdim=True)
        deviation = weight.std((2, 3), keepdim=True) + 1e-9
        weight = torch.sigmoid(5 * (2 * (weight - mean) / deviation - 1))
        return x * (1 - weight) + fused * weight


class Attention(nn.Module):
    """As SAGAN's ports have it, queries and keys turned round between products."""

    def __init__(self, channels):
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.full((1,), 0.7))

    def forward(self, x):
        b, c, h, w = x.shape
        query = self.query(x).view(b, -1, h * w).permute(0, 2, 1)
        energy = torch.bmm(query, self.key(x).view(b, -1, h * w))
        weights = torch.softmax(energy, dim=-1)
        mixed = torch.bmm(self.value(x).view(b, -1, h * w), weights.permute(0, 2, 1))
        return self.gamma * mixed.view(b, c, h, w) + x


class Generator(nn.Module):
    def __init__(self, width, blocks, rates):
        super().__init__()
        w = width
        self.encode1 = nn.Conv2d(4, w, 7, bias=False)
        self.encode2 = nn.Conv2d(w, 2 * w, 4, 2, 1, bias=False)
        self.encode3 = nn.Conv2d(2 * w, 4 * w, 4, 2, 1, bias=False)
        self.blocks = [f"aot_{i}" for i in range(1, blocks + 1)]
        for name in self.blocks:
            setattr(self, name, AOTBlock(4 * w, rates))
        self.attention = Attention(4 * w)
        self.decode1 = nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1, bias=False)
        self.decode2 = nn.ConvTranspose2d(4 * w, w, 4, 2, 1, bias=False)
        self.decode3 = nn.Conv2d(2 * w, 3, 7)
        for name in ("encode1", "encode2", "encode3", "decode1", "decode2"):
            setattr(self, f"{name}_bn", norm(getattr(self, name).out_channels))

    def layer(self, name, x):
        return leaky(getattr(self, f"{name}_bn")(getattr(self, name)(x)))

    def forward(self, x):
        mirror = nn.ReflectionPad2d(3)
        whole = self.layer("encode1", mirror(x))
        half = self.layer("encode2", whole)
        x = self.layer("encode3", half)
        for name in self.blocks:
            x = getattr(self, name)(x)
        x = torch.cat([self.layer("decode1", self.attention(x)), half], 1)
        x = torch.cat([self.layer("decode2", x), whole], 1)
        return torch.tanh(self.decode3(mirror(x)))


class Discriminator(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.count = len(channels)
        for i, (before, width) in enumerate(itertools.pairwise((3, *channels)), 1):
            ends = i in (1, self.count)
            setattr(self, f"conv{i}", nn.Conv2d(before, width, 4, 2, 1, bias=ends))
            if not ends:
                setattr(self, f"bn{i}", norm(width))

    def forward(self, x):
        x = leaky(self.conv1(x))
        for i in range(2, self.count):
            x = leaky(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        return getattr(self, f"conv{self.count}")(x)


class MaskGenerator(nn.Module):
    """[N, latent, 1, 1] -> [N, 3, 64, 64]."""

    def __init__(self, width, latent):
        super().__init__()
        widths = [latent, *(width * n for n in (8, 4, 2, 1)), 3]
        for i, (before, after) in enumerate(itertools.pairwise(widths), 1):
            place = (1, 0) if i == 1 else (2, 1)
            layer = nn.ConvTranspose2d(before, after, 4, *place, bias=False)
            setattr(self, f"deconv{i}", layer)
            if i < 5:
                setattr(self, f"bn{i}", norm(after))

    def forward(self, x):
        for i in range(1, 5):
            x = getattr(self, f"bn{i}")(getattr(self, f"deconv{i}")(x)).relu()
        return torch.tanh(self.deconv5(x))


class MaskDiscriminator(nn.Module):
    def __init__(self, width):
        super().__init__()
        widths = [3, *(width * n for n in (1, 2, 4, 8)), 1]
        for i, (before, after) in enumerate(itertools.pairwise(widths), 1):
            place = (1, 0) if i == 5 else (2, 1)
            setattr(self, f"conv{i}", nn.Conv2d(before, after, 4, *place, bias=False))
            if 1 < i < 5:
                setattr(self, f"bn{i}", norm(after))

    def forward(self, x):
        x = leaky(self.conv1(x))
        for i in range(2, 5):
            x = leaky(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        return self.conv5(x).flatten()


class Node(nn.Module):
    """Two convolutions, each with its norm and ReLU; without bias in the decoder."""

    def __init__(self, before, width, bias):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=bias)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.bn2 = norm(width)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        return self.bn2(self.conv2(x)).relu()


class EfficientUnet(nn.Module):
    def __init__(self, decoder, static):
        super().__init__()
        self.encoder = EfficientNetB3(static)
        before = 384
        for i, (width, skip) in enumerate(
            zip(decoder, (136, 48, 32, 40, 0), strict=True), 1
        ):
            setattr(self, f"decode{i}", Node(before + skip, width, False))
            before = width
        self.head = nn.Conv2d(before, 2, 3, padding=1)

    def forward(self, x):
        taps = self.encoder(x)
        x = taps["skip5"]
        for i, tap in enumerate(("skip4", "skip3", "skip2", "skip1", None), 1):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = x if tap is None else torch.cat([x, taps[tap]], 1)
            x = getattr(self, f"decode{i}")(x)
        return self.head(x)


def enlarge(x):
    return functional.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=True
    )


class Unet(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.levels = range(len(widths))
        for i, (before, width) in enumerate(itertools.pairwise((3, *widths))):
            setattr(self, f"encode{i}", Node(before, width, True))
        for i, (width, below) in enumerate(itertools.pairwise(widths)):
            setattr(self, f"decode{i}", Node(width + below, width, True))
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x):
        skips = []
        for i in self.levels:
            x = functional.max_pool2d(x, 2) if i else x
            x = getattr(self, f"encode{i}")(x)
            skips.append(x)
        for i in reversed(self.levels[:-1]):
            x = getattr(self, f"decode{i}")(torch.cat([skips[i], enlarge(x)], 1))
        return self.head(x)


class UnetPlusPlus(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.levels = len(widths)
        for step in range(self.levels):
            for i in range(self.levels - step):
                before = step * widths[i] + widths[i + 1] if step else ((3, *widths)[i])
                setattr(self, f"x{i}_{step}", Node(before, widths[i], True))
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x):
        column = []
        for i in range(self.levels):
            x = functional.max_pool2d(x, 2) if i else x
            x = self.x0_0(x) if i == 0 else getattr(self, f"x{i}_0")(x)
            column.append([x])
        for step in range(1, self.levels):
            for i in range(self.levels - step):
                below = enlarge(column[i + 1][step - 1])
                x = torch.cat([*column[i][:step], below], 1)
                column[i].append(getattr(self, f"x{i}_{step}")(x))
        return self.head(column[0][-1])


def convert(network):
    """A network's state as Linen collections of numpy arrays.

    Transposed convolutions are turned round: theirs spread a pixel, ours gather.
    """
    out = {"params": {}, "batch_stats": {}}
    ours = {"weight": "scale", "running_mean": "mean", "running_var": "var"}
    for path, tensor in network.state_dict().items():
        *parts, name = path.split(".")
        module, array = network.get_submodule(".".join(parts)), tensor.numpy()
        if "encoder" in parts or name == "num_batches_tracked":
            continue
        if name == "weight" and isinstance(module, nn.ConvTranspose2d):
            name, array = "kernel", array.transpose(2, 3, 0, 1)[::-1, ::-1]
        elif name == "weight" and isinstance(module, nn.Conv2d):
            name, array = "kernel", array.transpose(2, 3, 1, 0)
        elif name == "weight" and isinstance(module, nn.Linear):
            name, array = "kernel", array.T
        tree = out["batch_stats" if name.startswith("running") else "params"]
        for part in parts:
            tree = tree if part.isdigit() else tree.setdefault(part, {})
        tree[ours.get(name, name)] = np.array(array, np.float32)
    if hasattr(network, "encoder"):
        for collection, tree in _encoder(network.encoder).items():
            out[collection]["encoder"] = tree
    return out if out["batch_stats"] else {"params": out["params"]}


def _encoder(network):
    state = {name: x.float().numpy() for name, x in network.state_dict().items()}
    found = convert_layers(state, encoder_layers(B3, ""), ("_fc",))
    drop = ("conv_head", "bn1")
    return {
        collection: {name: x for name, x in tree.items() if name not in drop}
        for collection, tree in found.items()
    }
