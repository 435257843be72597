"""Errors of opening an image file."""


class NotAnImage(ValueError):
    """The data is in no format that can be read here."""


class TooManyPixels(ValueError):
    """The image has more pixels than the limit. It is not decoded."""


class DamagedImage(ValueError):
    """The format is known, but the pixels cannot be decoded."""
