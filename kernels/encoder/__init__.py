"""The fused passes of the image encoder. Imports `core`."""
