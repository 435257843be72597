"""The fused passes of the image encoder. This package imports only `core`."""
