"""What the mask decoder runs: an image's maps, attention to it and its updates, the tokens' layers, masks.

Imports `core`.
"""
