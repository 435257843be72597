"""Checkpoint files: this package's own format, every other format that is read, and the published checkpoints.
Imports `util`, and the folder of the packaged weights.
"""
