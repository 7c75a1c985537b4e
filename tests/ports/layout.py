"""What the ports share: random weights that keep activations of order one."""

import math

import torch


def randomize(network, seed):
    """Fills every tensor of a state in the public layout, in place."""
    draw = torch.Generator().manual_seed(seed)

    def normal(tensor, scale, mean=0.0):
        tensor.copy_(torch.randn(tensor.shape, generator=draw) * scale + mean)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                normal(module.weight, math.sqrt(2.0 / module.weight[0].numel()))
                if module.bias is not None:
                    normal(module.bias, 0.1)
    return network.eval()
