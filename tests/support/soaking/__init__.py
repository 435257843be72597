"""Soak tests: memory over thousands of images in one process, and a server under load. `scripts/soak.py` runs them."""
