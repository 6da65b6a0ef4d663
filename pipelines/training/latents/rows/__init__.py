"""The rows of a cache's index: Arrow files that all workers of a node map, so that none holds a row of its own.

<folder>/index.json                     of each bucket how many rows there are, what samples hold, and the files
<folder>/index/<bucket>.rows.arrow      a row per sample in order of key, in blocks of `BLOCK`
<folder>/index/<bucket>.shards.arrow    names of shards, which rows number
<folder>/index/<bucket>.blocks.arrow    of each block: CRC-32, first key, and how much of each contents stands before it

What tasks ask of a sample (its `Contents`) takes few forms in a bucket, so a row names one by number and blocks count
them: the k-th sample that a task can use is found by bisecting counts, and no list of places is ever made.
"""
