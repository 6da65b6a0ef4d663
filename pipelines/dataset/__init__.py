"""What curation writes and training reads: manifest, captions, buckets, and the samples of a dataset folder.

A neutral room: it imports no sibling, and siblings meet in it alone.
"""
