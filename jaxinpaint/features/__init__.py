"""Pretrained feature networks, and the safe way their public weights come in."""
