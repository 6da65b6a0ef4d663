"""What can be measured in a clip's sound: level, noise, bandwidth, voice, class, pauses, words.

Samples are float32 arrays (C, N) in [-1, 1]. Scores are measured here and judged elsewhere: no threshold of a
recipe lives in this package.
"""
