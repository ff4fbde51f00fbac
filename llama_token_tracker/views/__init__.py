"""One table of counts, and the ways to show it.

What a view shows is computed before it gets there: `table` adds up, the others render.
"""
