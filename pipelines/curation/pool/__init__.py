"""Sources become clips with every score: `plan.py` groups them, `extract.py` makes parts, `read.py` reads them."""
