"""Scores of an image and of a set, and the fills they are shown beside."""
