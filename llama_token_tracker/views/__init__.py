"""What is shown of counts, and the ways to show it.

What a view shows is computed before it gets there: `table` and `card` hold figures, the others
render them. Of the rooms above, from which the figures come, this one knows no more than types.
"""
