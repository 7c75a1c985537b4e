"""Pretrained networks that judge images, and the weights they are given."""
