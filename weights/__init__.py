"""The default checkpoint, shipped inside the package; README.md beside it tells its origin and licence."""

from __future__ import annotations

from pathlib import Path


def default_path() -> Path:
    """Where the packaged checkpoint is installed."""
    return Path(__file__).with_name("mobilesam.safetensors")
