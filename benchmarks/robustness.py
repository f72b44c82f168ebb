"""How often a router answers the same when the same picture is shown otherwise: the table of docs/router.md.

Run from the repository root::

    python benchmarks/robustness.py [--model bodypart-router] [--manifest ../shared/data/MANIFEST.csv] [--json]

On the val pictures of the manifest; test is looked at once, for the report.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np

from dicomnode.cards import find_models
from dicomnode.stages.infer import Model
from dicomnode.training.datasets import ROUTER, read_examples, read_picture
from dicomnode.training.robustness import as_markdown, measure


def main() -> None:
    """Measure and print a Markdown table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bodypart-router")
    parser.add_argument("--models", type=Path, default=Path(__file__).parents[1] / "models")
    parser.add_argument("--manifest", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "MANIFEST.csv")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    model = Model(find_models(given.models)[given.model])
    known = {label.key for label in model.card.labels}
    val = [example for example in read_examples(given.manifest, ROUTER) if example.split == "val" and example.label in known]
    pictures = [np.rint(read_picture(example.path) * 255).astype(np.uint8) for example in val]
    rows = measure(model, pictures, [example.label for example in val])
    if given.json:
        for row in rows:
            print(json.dumps({"model": model.card.name, "version": model.card.version} | asdict(row)))
    else:
        print(f"### {model.card.name} {model.card.version}, {len(val)} val pictures\n\n{as_markdown(rows)}", end="")


if __name__ == "__main__":
    main()
