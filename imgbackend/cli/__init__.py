"""The command ``imgbackend``: a thin client of the library, one module per noun."""
