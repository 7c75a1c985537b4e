"""EfficientNet-B3 in PyTorch, its modules named as in EfficientNet-PyTorch's files.

Every block is written out as in the table of the glomerulus specification, 2.6.
"""

import torch
from torch import nn
from torch.nn import functional

# kernel, stride, expand, channels in, channels out, width of the squeeze
BLOCKS = [
    (3, 1, 1, 40, 24, 10),
    (3, 1, 1, 24, 24, 6),
    (3, 2, 6, 24, 32, 6),
    *[(3, 1, 6, 32, 32, 8)] * 2,
    (5, 2, 6, 32, 48, 8),
    *[(5, 1, 6, 48, 48, 12)] * 2,
    (3, 2, 6, 48, 96, 12),
    *[(3, 1, 6, 96, 96, 24)] * 4,
    (5, 1, 6, 96, 136, 24),
    *[(5, 1, 6, 136, 136, 34)] * 4,
    (5, 2, 6, 136, 232, 34),
    *[(5, 1, 6, 232, 232, 58)] * 5,
    (3, 1, 6, 232, 384, 58),
    (3, 1, 6, 384, 384, 96),
]
SKIPS = {4: "skip2", 7: "skip3", 17: "skip4", 25: "skip5"}
# With padding of a 300 x 300 image: what each stride of 2 pads before and after.
STATIC_PADS = {"stem": (0, 1), 2: (0, 1), 5: (2, 2), 8: (0, 1), 18: (2, 2)}


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def downsample(conv, x, static_pads):
    """A convolution of stride 2, padded for this image or as given."""
    if static_pads is not None:
        before, after = static_pads
        return conv(functional.pad(x, (before, after, before, after)))
    pads = []
    for size in (x.shape[3], x.shape[2]):
        whole = (size + 1) // 2 * 2 - 2 + conv.kernel_size[0] - size
        pads += [max(whole, 0) // 2, max(whole, 0) - max(whole, 0) // 2]
    return conv(functional.pad(x, pads))


class Block(nn.Module):
    def __init__(self, number, static):
        super().__init__()
        kernel, stride, expand, channels, out, squeezed = BLOCKS[number]
        wide = channels * expand
        self.static_pads = STATIC_PADS.get(number) if static else None
        self.identity = stride == 1 and channels == out
        if expand != 1:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = norm(wide)
        self._depthwise_conv = nn.Conv2d(
            wide,
            wide,
            kernel,
            stride,
            padding=kernel // 2 if stride == 1 else 0,
            groups=wide,
            bias=False,
        )
        self._bn1 = norm(wide)
        self._se_reduce = nn.Conv2d(wide, squeezed, 1)
        self._se_expand = nn.Conv2d(squeezed, wide, 1)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = norm(out)

    def forward(self, x):
        y = x
        if hasattr(self, "_expand_conv"):
            y = functional.silu(self._bn0(self._expand_conv(y)))
        if self._depthwise_conv.stride == (2, 2):
            y = downsample(self._depthwise_conv, y, self.static_pads)
        else:
            y = self._depthwise_conv(y)
        y = functional.silu(self._bn1(y))
        squeezed = functional.silu(self._se_reduce(y.mean((2, 3), keepdim=True)))
        y = y * torch.sigmoid(self._se_expand(squeezed))
        y = self._bn2(self._project_conv(y))
        return y + x if self.identity else y


class EfficientNetB3(nn.Module):
    """Takes normalised images [B, 3, H, W]; gives every tap, channels second."""

    def __init__(self, static):
        super().__init__()
        self.static_pads = STATIC_PADS["stem"] if static else None
        self._conv_stem = nn.Conv2d(3, 40, 3, 2, bias=False)
        self._bn0 = norm(40)
        self._blocks = nn.ModuleList(Block(n, static) for n in range(len(BLOCKS)))
        self._conv_head = nn.Conv2d(384, 1536, 1, bias=False)
        self._bn1 = norm(1536)
        self._fc = nn.Linear(1536, 1000)

    def forward(self, image):
        x = downsample(self._conv_stem, image, self.static_pads)
        x = functional.silu(self._bn0(x))
        taps = {"skip1": x}
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in SKIPS:
                taps[SKIPS[number]] = x
        x = functional.silu(self._bn1(self._conv_head(x)))
        return {**taps, "features": x, "logits": self._fc(x.mean((2, 3)))}


def randomize(network, image, seed):
    """Random weights; statistics of an image, jittered layer by layer, in place.

    Drawn freely, 26 blocks would die out or blow up.
    """
    torch.manual_seed(seed)

    def settle(module, inputs, output):
        # The module has just learned this batch; later ones are to see it jittered.
        spread = module.running_var
        spread.clamp_(min=spread.mean().item())  # no channel is to be enlarged much
        module.running_mean += 0.1 * spread.sqrt() * torch.randn_like(spread)
        spread *= 0.8 + 0.4 * torch.rand_like(spread)
        return module.eval().forward(*inputs)  # without its hooks

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for module in norms:
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0.0, 0.3)
            module.momentum = 1.0
        hooks = [module.register_forward_hook(settle) for module in norms]
        network.train()(image)
    for module, hook in zip(norms, hooks, strict=True):
        hook.remove()
        module.momentum = 0.01
    return network.eval()
