"""LPIPS 0.1 in PyTorch; its linear layers are named as in the public files."""

import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))


class LPIPS(nn.Module):
    def __init__(self, places, channels):
        """Reads the outputs of these modules of a trunk's `features`."""
        super().__init__()
        self.places = places
        for i, count in enumerate(channels):
            self.add_module(f"lin{i}", Linear(count))
        shift, scale = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
        self.shift = torch.tensor(shift).reshape(1, 3, 1, 1)
        self.scale = torch.tensor(scale).reshape(1, 3, 1, 1)

    def compare(self, truth, prediction):
        """Layers [B, C, H, W] of two images -> [B]."""
        total = 0.0
        for i, pair in enumerate(zip(truth, prediction, strict=True)):
            f, g = (
                x / (torch.linalg.vector_norm(x, dim=1)[:, None] + 1e-10) for x in pair
            )
            layer = getattr(self, f"lin{i}").model((f - g) ** 2)
            total = total + layer.mean(dim=(1, 2, 3))
        return total

    def forward(self, trunk, truth, prediction):
        """Images [B, 3, H, W] in [-1, 1] -> [B]."""
        outputs = [
            trunk.outputs((image - self.shift) / self.scale)
            for image in (truth, prediction)
        ]
        return self.compare(*([x[place] for place in self.places] for x in outputs))
