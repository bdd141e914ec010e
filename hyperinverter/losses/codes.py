"""Losses of codes: how far they lie from the average one, and from each other.

Letters: N images, L styles.
"""

from torch import Tensor


def w_norm(ws: Tensor, average: Tensor) -> Tensor:
    """pSp's regularisation (arXiv:2008.00951, equation 4): mean over images of ||ws - average||, over all styles.

    Args:
        ws: codes [N, L, w_dim].
        average: [1 or L, w_dim].
    """
    return (ws - average).flatten(1).norm(dim=1).mean()


def delta_norm(ws: Tensor) -> Tensor:
    """e4e's regularisation (arXiv:2102.02766, equation 3): sum over styles of the mean of ||w_i - w_0|| over images.

    Args:
        ws: codes [N, L, w_dim] of w_0 and the styles that differ from it by now; 0 where w_0 is alone.
    """
    return (ws[:, 1:] - ws[:, :1]).norm(dim=2).mean(dim=0).sum()
