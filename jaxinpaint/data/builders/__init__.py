"""TFDS builders, run without TensorFlow."""
