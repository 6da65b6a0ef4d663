"""Inputs become sources: `find.py` finds and opens them, `user_captions.py` has the words that came with them."""
