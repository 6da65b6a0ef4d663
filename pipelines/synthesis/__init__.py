"""A procedural film studio: real files with exact annotations, from a seed.

`film.py` says what a film is, `sampler.py` invents one, `studio.py` renders it, `world.py` fills a folder.
"""
