"""The reference's `utils`."""
