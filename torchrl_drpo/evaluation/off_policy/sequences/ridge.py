"""Linear least squares, the regressor of fitted Q evaluation that is solved in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.sequences.step_inputs import Fit, Inputs, Predictor


def ridge(penalty: float = 1e-6) -> Fit:
    r"""Linear least squares, :math:`(X^\top X + \lambda I)^{-1} X^\top y`, in float64.

    With one-hot rows of (state, action) it is a table, and :func:`fitted_q` dynamic programming
    over the log's frequencies.

    Args:
        penalty: lambda, above 0.

    Example:
        >>> fit = ridge(1e-9)
        >>> predict = fit(torch.eye(2), torch.tensor([1.0, 3.0]))
        >>> predict(torch.tensor([[1.0, 1.0]])).round(decimals=4)
        tensor([4.], dtype=torch.float64)
    """
    if not penalty > 0:
        raise ValueError(f"penalty must be above 0, got {penalty}")

    def fit(inputs: Inputs, target: Tensor) -> Predictor:
        if not isinstance(inputs, Tensor):
            raise ValueError("ridge reads a tensor of features [M, F], got a TensorDict")
        x = inputs.double()
        gram = x.T @ x
        gram.diagonal().add_(penalty)
        weight = torch.linalg.solve(gram, x.T @ target.to(x.device, torch.float64))
        return lambda rows: rows.double() @ weight

    return fit
