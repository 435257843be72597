"""The reference's `utils` package. Imports `api`, `images` and `masks`."""
