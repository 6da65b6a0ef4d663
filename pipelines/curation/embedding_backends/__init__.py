"""What turns a clip's frames into one vector. Chosen in `pipelines/curation/embeddings.py`."""
