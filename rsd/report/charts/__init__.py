"""Pure functions from the records' data frames to charts, a module per subject; the page around them is `page.py`."""
