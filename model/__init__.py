"""SkyReels-V4 in plain PyTorch: no Ray, no HTTP, no data pipeline.

Reading order, from a call down to a kernel: `generator` (what users call), `generation` (one call: `prepared`, then
`steps`), `sampling` (from noise to data), `network` (`mmdit`, then `branch`: latents to tokens and back, `blocks`: one
layer, then `attention`, `rope`, `modulation` and `vsa`). Beside them `shapes` (all lengths), `conditioning` (all
tasks), `folder` (a model on disk), `codecs`, `prompt_encoder` and `costs`. `python -m model.inspect v4` tells what a
preset costs.
"""

import skyreels  # noqa: F401  (first: it makes torchvision importable in every process; nothing else of it is used)
