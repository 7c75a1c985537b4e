"""DenseNet-121 in PyTorch, its modules named as in torchvision's public file."""

import torch
from torch import nn
from torch.nn import functional


class DenseLayer(nn.Module):
    def __init__(self, channels):
        super().__init__()
        norms = {"1": nn.BatchNorm2d(channels), "2": nn.BatchNorm2d(128)}
        convs = {
            "1": nn.Conv2d(channels, 128, 1, bias=False),
            "2": nn.Conv2d(128, 32, 3, padding=1, bias=False),
        }
        self.norm, self.conv = nn.ModuleDict(norms), nn.ModuleDict(convs)

    def forward(self, x):
        new = x
        for i in "12":
            new = self.conv[i](functional.relu(self.norm[i](new)))
        return torch.cat([x, new], dim=1)


class DenseNet121(nn.Module):
    def __init__(self):
        super().__init__()
        parts = {
            "conv0": nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            "norm0": nn.BatchNorm2d(64),
        }
        channels = 64
        for block, count in enumerate((6, 12, 24, 16), start=1):
            layers = nn.Sequential()
            for i in range(1, count + 1):
                layers.add_module(f"denselayer{i}", DenseLayer(channels))
                channels += 32
            parts[f"denseblock{block}"] = layers
            if block < 4:
                transition = nn.Module()
                transition.norm = nn.BatchNorm2d(channels)
                transition.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
                parts[f"transition{block}"] = transition
                channels //= 2
        parts["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.ModuleDict(parts)
        self.classifier = nn.Linear(channels, 1000)

    def forward(self, x):
        """Normalised [B, 3, H, W] to every tensor by its name in our network."""
        f, seen = self.features, {}
        x = seen["conv1_relu"] = functional.relu(f["norm0"](f["conv0"](x)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for block in (1, 2, 3):
            x = f[f"denseblock{block}"](x)
            transition = f[f"transition{block}"]
            x = transition.conv(functional.relu(transition.norm(x)))
            seen[f"pool{block + 1}_conv"] = x
            x = seen[f"pool{block + 1}_pool"] = functional.avg_pool2d(x, 2)
        x = seen["relu5"] = functional.relu(f["norm5"](f["denseblock4"](x)))
        seen["logits"] = self.classifier(x.mean(dim=(2, 3)))
        return seen
