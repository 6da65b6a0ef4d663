"""The frozen MLLM that reads prompts and references."""
