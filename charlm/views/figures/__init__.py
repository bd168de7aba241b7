"""Numbers to SVG: one file per kind of chart.

An SVG has class names and no colours: style sheets supply them, so that one SVG serves light, dark
and print. Each chart is drawn twice, wide and narrow, so that text keeps its size on a phone.
"""
