"""The bench: a model asked in suites of fixed seeds, what it made judged by metrics, the judge judged by controls.

Reading order: `films` (what is asked, with its truth), `judge` (what is seen and heard in a clip), `metrics` (a number
per clip), `suites` (tasks, seeds, targets), `run`, `controls`, `summary`, `report`. `people` holds what humans say.
"""
