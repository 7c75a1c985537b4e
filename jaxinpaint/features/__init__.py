"""Pretrained networks that judge images, and the safe way their weights come in."""
