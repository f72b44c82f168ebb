"""Training: datasets, networks, the loop, evaluation and export to ONNX; nothing that the running node imports.

**Way** `train` holds the entry functions; it, `networks`, `loop`, `learn` and `export` import torch
(the extra `train`), `datasets`, `augment`, `metrics` and `evaluate` work without it.
"""
