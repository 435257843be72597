"""The public interface: a model, an embedding, a segmentation, everything-mode, checked prompts, embedding files.
Imports `network`, `masks`, `images`, `checkpoints` and `util`.
"""
