"""Result objects to SVG to one HTML file. This room contains no model code."""

from charlm.views.style import design_tokens as design_tokens
