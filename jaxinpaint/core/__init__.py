"""What every room stands on: the protocol, checks and checkpoints."""
