"""Restores sections with a trained system."""
