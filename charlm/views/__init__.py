"""Result objects to SVG to one HTML file. This room contains no model code."""
