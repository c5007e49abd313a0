"""Mean injection: what is learned about a segment shows in the image."""

from torch import Tensor, nn

from ._checks import check_int
from .ops import mean_inject
from .partition import Partition


class MeanInjection(nn.Module):
    """Replaces the mean of each segment by a linear map of the segment's features, W f + b (see `mean_inject`).

    So an image that goes on to a pretrained model carries the gradient to the features.

    Args:
        channels: number of features, C.
        image_channels: channels of the images.
    """

    def __init__(self, channels: int = 8, image_channels: int = 3) -> None:
        super().__init__()
        check_int("channels", channels, 1)
        check_int("image_channels", image_channels, 1)
        self.linear = nn.Linear(channels, image_channels)

    def forward(self, images: Tensor, partition: Partition) -> Tensor:
        """Images `[B,3,H,W]` and a partition of them -> `[B,3,H,W]`."""
        return mean_inject(images, self.linear(partition.features), partition.labels)
