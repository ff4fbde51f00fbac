"""Ways to show figures: as text for a terminal, and as HTML for a notebook.

`card` and `table` hold what is shown, added up; `text` and `html` render it, `figures` formats
single values. What is drawn is known by `protocols` alone, never by the classes of other rooms.
"""
