"""Runs train_classification.py for each group of arguments between `--then`: the interpreter starts once."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import train_classification
from accelerate.state import PartialState

# The second run takes the first one's group of processes: to make another under one torchrun is a race.
PartialState.destroy_process_group = lambda self, group=None: None

arguments = sys.argv[1:]
while arguments:
    end = arguments.index("--then") if "--then" in arguments else len(arguments)
    train_classification.main(arguments[:end])
    arguments = arguments[end + 1 :]
