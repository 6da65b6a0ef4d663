"""Which clips a dataset holds, from stored scores: `selection.py` decides, `elsewhere.py` reads what others hold."""
