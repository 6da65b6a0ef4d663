"""What turns a clip's frames into one vector, and the aesthetics that are read off it: see `backends.py`."""
