"""The public interface: models, embeddings, segmentations, everything-mode, prompt checks and embedding files.

Imports `network`, `masks`, `images`, `checkpoints` and `util`.
"""
