"""What a picture shows, measured on one shared decode. Start at `decode_pass.py`, then `scores.py`."""
