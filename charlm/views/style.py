"""Style sheets and scripts of pages."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from charlm.views.html import Html, tag


def read_asset(name: str) -> str:
    """Return the text of a file in the folder `assets`."""
    return (files("charlm.views") / "assets" / name).read_text(encoding="utf-8")


def design_tokens() -> str:
    """Return the style sheet with the colours and fonts that all pages share.

    It declares custom properties on `:root`: light ones, dark ones for dark screens, and light ones
    in print. It also has the classes of the scales behind text: `u0` to `u7` (surprisal), `m0` to
    `m7` (memory), and `n4` to `p4` (value of a unit).
    """
    return read_asset("tokens.css")


def report_style() -> str:
    """Return the style sheet of the report."""
    return design_tokens() + read_asset("report.css")


def figure_style() -> Html:
    """Return a style element for a figure that stands alone, for example in a notebook.

    The rules are nested in the class `charlm`, so that they change nothing else on the page.
    """
    tokens = design_tokens().replace(":root", ".charlm")
    return Html(f"<style>{tokens}.charlm{{{read_asset('report.css')}}}</style>")


def page_head(title: str, style: str, scripts: Sequence[str], *, has_images: bool = False) -> Html:
    """Return the head of a page that loads nothing, and runs no other scripts than its own.

    Args:
        title: Title of the page.
        style: Style sheet.
        scripts: Inline scripts of the body.
        has_images: Whether the page has images, which are data within it.
    """
    hashes = " ".join(map(_content_hash, scripts))
    images = "img-src data:; " if has_images else ""
    policy = (
        f"default-src 'none'; style-src {_content_hash(style)}; script-src {hashes}; "
        f"{images}base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", title),
        Html(f"<style>{style}</style>"),
    )


def _content_hash(text: str) -> str:
    """Return the source of an inline style or script in a content security policy."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
