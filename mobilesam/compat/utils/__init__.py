"""The reference's `utils` package. Imports `images`."""
