"""VGG in PyTorch, its modules named and counted as in the public files."""

import torch
from torch import nn

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        steps, before = [], 3
        for count, width in zip(blocks, WIDTHS, strict=True):
            for _ in range(count):
                steps += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            steps.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*steps)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 1000),
        )

    def outputs(self, x):
        """The output of every module of `features`, in their order."""
        found = []
        for module in self.features:
            x = module(x)
            found.append(x)
        return found

    def forward(self, x):
        x = self.avgpool(self.outputs(x)[-1])
        return self.classifier(torch.flatten(x, 1))
