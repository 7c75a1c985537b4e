"""Random batch norms in PyTorch that keep activations of order one."""

import torch


def randomize_norms(network, seed):
    """Fills scale, shift, stored mean and stored variance of every batch norm."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.copy_(0.6 + 0.8 * torch.rand(tensor.shape, generator=draw))
                for tensor in (module.bias, module.running_mean):
                    tensor.copy_(0.2 * torch.randn(tensor.shape, generator=draw))
    return network.eval()
