"""RMS normalisation of queries and keys, which bounds attention's logits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QKNorm(nn.Module):
    """RMSNorm over each head's features with a scale for queries and one for keys.

    Statistics are float32 whatever the dtype (Dehghani et al., arXiv 2302.05442, section 2, with
    RMSNorm in place of LayerNorm).

    Args:
        head_dim: size of the last axis.
        eps: added to the mean square.
    """

    def __init__(self, head_dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.query_weight = nn.Parameter(torch.ones(head_dim))
        self.key_weight = nn.Parameter(torch.ones(head_dim))

    def forward(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Both [..., head_dim]; shapes and dtypes are kept."""
        return self._norm(queries, self.query_weight), self._norm(keys, self.key_weight)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x.float(), weight.shape, weight.float(), self.eps).to(x.dtype)
