"""Messages of other packages' errors, as a part of this package's messages."""

from __future__ import annotations

MOST_CHARACTERS = 200


def plain(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text in one line of at most `most` characters. Characters that cannot be printed become spaces."""
    printable = "".join(character if character.isprintable() else " " for character in text[: 10 * most])
    return " ".join(printable.split())[:most]


def one_line(error: Exception) -> str:
    """Type and message of another package's error, in one line of at most 200 characters."""
    return plain(f"{type(error).__name__}: {error}")
