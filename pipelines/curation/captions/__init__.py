"""Captions: short, long and structured, from what was measured or from a multimodal model.

Read `schema.py` for what a caption is, `requests.py` for what goes in and out, then one of the captioners.
"""
