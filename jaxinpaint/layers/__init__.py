"""Modules that networks of several papers are built from."""
