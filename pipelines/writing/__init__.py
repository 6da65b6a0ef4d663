"""Models that write text: asked over HTTP, or held in this process. Captions and prompts are both written by them."""
