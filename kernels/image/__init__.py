"""From pixels to the encoder's input, and from logits to masks in the image's size. Imports `core`."""
