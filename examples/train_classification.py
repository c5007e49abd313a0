"""Train a Vision Transformer on adaptive tokens to classify images (docs/training.md).

python examples/train_classification.py examples/configs/imagenet_vit_b16.yaml --set data.train=... data.val=...
torchrun --nproc_per_node 8 examples/train_classification.py ...
"""

import sys
from collections.abc import Sequence

from training.augment import LabelError
from training.checkpoint import CheckpointError
from training.config import ConfigError, parse
from training.loop import train


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Figures of the last evaluation."""
    config = parse(arguments, "classification", __doc__.splitlines()[0])
    try:
        return train(config)
    except (CheckpointError, ConfigError, LabelError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
