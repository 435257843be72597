"""Normalization of pixels for the encoder, and resizing of logits to the photo. This package imports only `core`."""
