"""Checkpoint files: this package's own format, the other formats that it reads, and the published checkpoints.

Imports only `util`, and `weights` for the packaged checkpoint.
"""
