"""Swin-Unet in PyTorch, its modules named as ours; takes normalised levels, NCHW.

Windows are cut out one by one and heads are looped over, so that nothing of the packed
forms is shared with the network under test but the layout of the weights.
"""

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, channels, heads, side):
        super().__init__()
        self.heads, self.side = heads, side
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        rows = (2 * side - 1) ** 2
        self.relative_position_bias = nn.Parameter(torch.randn(rows, heads))

    def forward(self, x, apart):
        """[B, side^2, C]; `apart` [side^2, side^2] is True between regions."""
        _, n, c = x.shape
        size, mixed = c // self.heads, []
        query, key, value = self.qkv(x).split(c, dim=-1)
        at = [divmod(i, self.side) for i in range(n)]
        span = 2 * self.side - 1
        index = torch.tensor(
            [
                [
                    (a[0] - b[0] + self.side - 1) * span + a[1] - b[1] + self.side - 1
                    for b in at
                ]
                for a in at
            ]
        )
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / size**0.5
            scores = scores + self.relative_position_bias[:, head][index]
            scores = scores - 100.0 * apart
            mixed.append(torch.softmax(scores, dim=-1) @ value[..., part])
        return self.project(torch.cat(mixed, dim=-1))


class Block(nn.Module):
    def __init__(self, channels, heads, side, shift):
        super().__init__()
        self.side, self.shift = side, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, heads, side)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp1 = nn.Linear(channels, 4 * channels)
        self.mlp2 = nn.Linear(4 * channels, channels)

    def forward(self, x):
        b, h, w, c = x.shape
        side = self.side
        shift = 0 if min(h, w) <= side else self.shift
        rolled = torch.roll(self.norm1(x), (-shift, -shift), dims=(1, 2))
        # Where a token stands before it is rolled: across the seam it jumps.
        rows = torch.roll(torch.arange(h), -shift)
        columns = torch.roll(torch.arange(w), -shift)
        out = torch.zeros_like(x)
        for top in range(0, h, side):
            for left in range(0, w, side):
                window = slice(top, top + side), slice(left, left + side)
                low = rows[window[0]] < rows[top], columns[window[1]] < columns[left]
                region = (2 * low[0][:, None].int() + low[1].int()).flatten()
                apart = (region[:, None] != region).to(x.dtype)
                tokens = rolled[:, *window].reshape(b, side * side, c)
                made = self.attention(tokens, apart)
                out[:, *window] = made.reshape(b, side, side, c)
        x = x + torch.roll(out, (shift, shift), dims=(1, 2))
        y = nn.functional.gelu(self.mlp1(self.norm2(x)))
        return x + self.mlp2(y)


class Merge(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x):
        order = ((0, 0), (1, 0), (0, 1), (1, 1))
        return self.reduce(
            self.norm(torch.cat([x[:, i::2, j::2] for i, j in order], -1))
        )


class Expand(nn.Module):
    def __init__(self, before, times, after):
        super().__init__()
        self.times = times
        self.expand = nn.Linear(before, times * times * after, bias=False)
        self.norm = nn.LayerNorm(after)

    def forward(self, x):
        t = self.times
        parts = iter(self.expand(x).chunk(t * t, dim=-1))
        b, h, w, _ = x.shape
        out = x.new_zeros(b, t * h, t * w, self.norm.normalized_shape[0])
        for i in range(t):
            for j in range(t):
                out[:, i::t, j::t] = next(parts)
        return self.norm(out)


class SwinUnet(nn.Module):
    def __init__(self, width, depths, decoder_depths, heads, window):
        super().__init__()
        self.plan = depths, decoder_depths
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.embed_norm = nn.LayerNorm(width)
        last = len(depths) - 1
        for level, blocks in enumerate(depths):
            channels = width * 2**level
            self.stage(f"encode{level}", blocks, channels, heads[level], window)
            if level < last:
                setattr(self, f"merge{level}", Merge(channels))
        self.encode_norm = nn.LayerNorm(width * 2**last)
        for step, blocks in enumerate(decoder_depths):
            level = last - 1 - step
            channels = width * 2**level
            setattr(self, f"expand{level}", Expand(2 * channels, 2, channels))
            setattr(self, f"join{level}", nn.Linear(2 * channels, channels))
            self.stage(f"decode{level}", blocks, channels, heads[level], window)
        self.decode_norm = nn.LayerNorm(width)
        self.expand_last = Expand(width, 4, width)
        self.head = nn.Conv2d(width, 2, 1, bias=False)

    def stage(self, name, blocks, channels, heads, window):
        for i in range(blocks):
            block = Block(channels, heads, window, window // 2 * (i % 2))
            setattr(self, f"{name}_block{i}", block)

    def forward(self, image):
        depths, decoder_depths = self.plan
        x = self.embed_norm(self.embed(image).permute(0, 2, 3, 1))
        skips = []
        for level, blocks in enumerate(depths):
            skips.append(x)
            for i in range(blocks):
                x = getattr(self, f"encode{level}_block{i}")(x)
            if level < len(depths) - 1:
                x = getattr(self, f"merge{level}")(x)
        x, level = self.encode_norm(x), len(depths) - 1
        for blocks in decoder_depths:
            level -= 1
            x = getattr(self, f"expand{level}")(x)
            x = getattr(self, f"join{level}")(torch.cat([x, skips[level]], -1))
            for i in range(blocks):
                x = getattr(self, f"decode{level}_block{i}")(x)
        return self.head(self.expand_last(self.decode_norm(x)).permute(0, 3, 1, 2))
