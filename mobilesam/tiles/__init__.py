"""Images that are larger than a photo, read and segmented in tiles. No module here runs the network."""
