"""HTML and SVG from values: everything that is not `Html` is escaped."""

import html
import re
from collections.abc import Mapping

# XML allows no other control characters; a browser shows bidirectional marks by their effect.
# Joiners and variation selectors shape the character before them, and are invisible without one.
_INVISIBLE = re.compile(
    "(?<!\\S)[\u200c\u200d\ufe00-\ufe0f]|"
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
_VOID = {"br", "hr", "img", "input", "link", "meta"}


class Html(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


def escape(text: object) -> Html:
    """Return a text as HTML: markup is escaped, and invisible characters are shown by their code.

    >>> escape('<b title="a">')
    '&lt;b title=&quot;a&quot;&gt;'
    >>> escape("a\u202eb")
    'a[U+202E]b'
    """
    if isinstance(text, Html):
        return text
    return Html(html.escape(show_invisible(str(text)), quote=True))


def show_invisible(text: str) -> str:
    r"""Return a text with the code of each invisible character, such as a right-to-left mark.

    >>> show_invisible("\u200d"), show_invisible("a\u200d"), show_invisible("a\u200b")
    ('[U+200D]', 'a\u200d', 'a[U+200B]')
    """
    return _INVISIBLE.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)


def tag(
    name: str, /, *children: object, attributes: Mapping[str, object] | None = None, **short: object
) -> Html:
    """Return an element.

    Args:
        name: Name of the element.
        children: Contents: `Html`, or text to be escaped; None is left out.
        attributes: Attributes whose names are no names in Python, such as `data-key`.
        short: Other attributes; `class_` is `class`, and `_` in a name is `-`. A value of None or
            False is left out, and True is an attribute without value.

    >>> tag("p", "1 < 2", class_="find")
    '<p class="find">1 &lt; 2</p>'
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in short.items()}
    given |= attributes or {}
    written = "".join(
        f" {key}" if value is True else f' {key}="{escape(value)}"'
        for key, value in given.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    contents = "".join(escape(child) for child in children if child is not None)
    return Html(f"<{name}{written}>{contents}</{name}>")


def join(*parts: object) -> Html:
    """Return parts one after another; text is escaped, and None is left out."""
    return Html("".join(escape(part) for part in parts if part is not None))
