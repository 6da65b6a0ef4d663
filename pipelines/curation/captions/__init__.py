"""Captions: short, long and structured, from what was measured or from a multimodal model.

`pipelines/dataset/captions.py` says what a caption is, `requests.py` what goes in and out, `captioners.py` who answers.
"""
