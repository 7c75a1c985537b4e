"""Losses that several papers share, as functions of arrays."""
