"""Builders, pipelines, masks and phantoms; numpy only."""
