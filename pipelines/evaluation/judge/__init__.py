"""What is seen and heard in a clip of the plain world, from pixels and samples alone.

Nothing here is told what was asked: `pipelines.evaluation.metrics` compares. Only numpy, scipy and OpenCV.
"""
