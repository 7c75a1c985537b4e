"""Scores what systems restored, or anybody else, and shows it: on the roof."""
