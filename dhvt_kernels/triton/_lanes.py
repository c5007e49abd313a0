"""The plainest kernels: a lane per number, whatever is next to it."""

from ._language import jit, tl

#: Lanes of a program; with the usual 4 warps a thread has four.
BLOCK = 512


@jit
def lanes(size, BLOCK: tl.constexpr):
    """The numbers of this program's lanes, and which of them are below the size."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return index, index < size
