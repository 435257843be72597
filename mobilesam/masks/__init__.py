"""Masks as run lengths, polygons and regions; segmented objects, drawn and as text. Imports `images` and `util`."""
