"""Text from the command line, which Python decodes by the locale."""

import os


def utf8_argument(text: str) -> str:
    """Return a command-line argument as UTF-8 text, also where the locale has no UTF-8.

    In the POSIX locale, Python represents each byte of a character outside ASCII by a lone
    surrogate. Bytes that are not UTF-8 stay as they are. Do not use it for a path, which Python
    encodes by the locale again.
    """
    if not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text
