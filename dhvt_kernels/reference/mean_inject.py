"""The image with the mean of each segment replaced by its token."""

from torch import Tensor

from .._checks import accumulation_dtype
from .._layout import like_image
from .segment_pool import segment_gather, segment_sum


def mean_inject(image: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    """out_i = image_i + (token_s - mean_s) for a pixel i of segment s; other pixels are copied."""
    sums, mass = segment_sum(image, labels, None, tokens.shape[1])
    shift = tokens.to(sums.dtype) - sums / mass.clamp(min=1).unsqueeze(-1)
    out = image.to(accumulation_dtype(image.dtype)) + segment_gather(shift, labels, None, False)
    return like_image(out.to(image.dtype), image)
