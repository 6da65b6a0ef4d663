"""Raw media in, training shards out. Read `pipeline.py` first, then follow one source down."""
