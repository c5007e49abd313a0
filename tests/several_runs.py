"""Runs train_classification.py for each group of arguments between `--then`: the interpreter starts once."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import train_classification
from accelerate.state import AcceleratorState

arguments = sys.argv[1:]
while arguments:
    end = arguments.index("--then") if "--then" in arguments else len(arguments)
    train_classification.main(arguments[:end])
    AcceleratorState._reset_state(True)
    arguments = arguments[end + 1 :]
