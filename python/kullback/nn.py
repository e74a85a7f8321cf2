"""torch's loss modules on `kullback.functional`: ``import kullback.nn as nn`` where ``torch.nn as nn`` stood for them.

Each is torch's module with another ``forward``: constructor arguments, buffers, ``state_dict``, ``repr``, pickling and
copying are its own. Importing this module needs torch.
"""

from __future__ import annotations

from torch import Tensor, nn

from kullback import functional as F

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "KLDivLoss",
    "LogSoftmax",
    "NLLLoss",
    "Softmax",
    "Softmin",
]


class KLDivLoss(nn.KLDivLoss):
    """`kullback.functional.kl_div` as a module, with the arguments of `torch.nn.KLDivLoss`.

    Examples
    --------
    >>> import torch
    >>> from kullback.nn import KLDivLoss
    >>> KLDivLoss(reduction="batchmean")(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]))
    tensor(0.6931)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Evaluate the loss."""
        loss: Tensor = F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)
        return loss


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """`kullback.functional.cross_entropy` as a module, with the arguments of `torch.nn.CrossEntropyLoss`.

    Examples
    --------
    >>> import torch
    >>> from kullback.nn import CrossEntropyLoss
    >>> logits = torch.zeros(2, 4, requires_grad=True)
    >>> loss = CrossEntropyLoss()(logits, torch.tensor([0, 3]))
    >>> loss.backward()
    >>> loss, logits.grad[0]
    (tensor(1.3863, grad_fn=<_NodeBackward>), tensor([-0.3750,  0.1250,  0.1250,  0.1250]))
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Evaluate the loss."""
        loss: Tensor = F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
        return loss


class NLLLoss(nn.NLLLoss):
    """`kullback.functional.nll_loss` as a module, with the arguments of `torch.nn.NLLLoss`.

    Examples
    --------
    >>> import torch
    >>> from kullback.nn import NLLLoss
    >>> NLLLoss()(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1]))
    tensor(0.2877)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Evaluate the loss."""
        loss: Tensor = F.nll_loss(
            input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )
        return loss


class BCELoss(nn.BCELoss):
    """`kullback.functional.binary_cross_entropy` as a module, with the arguments of `torch.nn.BCELoss`.

    Examples
    --------
    >>> import torch
    >>> from kullback.nn import BCELoss
    >>> BCELoss()(torch.tensor([0.5, 0.25]), torch.tensor([1.0, 0.0]))
    tensor(0.4904)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Evaluate the loss."""
        loss: Tensor = F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)
        return loss


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """`kullback.functional.binary_cross_entropy_with_logits` as a module, as `torch.nn.BCEWithLogitsLoss`.

    Examples
    --------
    >>> import torch
    >>> from kullback.nn import BCEWithLogitsLoss
    >>> BCEWithLogitsLoss()(torch.tensor([0.0, -20.0]), torch.tensor([1.0, 0.0]))
    tensor(0.3466)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Evaluate the loss."""
        loss: Tensor = F.binary_cross_entropy_with_logits(
            input, target, weight=self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )
        return loss


class Softmax(nn.Softmax):
    """`kullback.functional.softmax` as a module, with the arguments of `torch.nn.Softmax`.

    Examples
    --------
    >>> import torch
    >>> from kullback.nn import Softmax
    >>> Softmax(dim=1)(torch.zeros(1, 4))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the input."""
        result: Tensor = F.softmax(input, self.dim, _stacklevel=5)
        return result


class LogSoftmax(nn.LogSoftmax):
    """`kullback.functional.log_softmax` as a module, with the arguments of `torch.nn.LogSoftmax`.

    Examples
    --------
    >>> import torch
    >>> from kullback.nn import LogSoftmax
    >>> LogSoftmax(dim=1)(torch.zeros(1, 2))
    tensor([[-0.6931, -0.6931]])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the input."""
        result: Tensor = F.log_softmax(input, self.dim, _stacklevel=5)
        return result


class Softmin(nn.Softmin):
    """`kullback.functional.softmin` as a module, with the arguments of `torch.nn.Softmin`.

    Examples
    --------
    >>> import torch
    >>> from kullback.nn import Softmin
    >>> Softmin(dim=0)(torch.tensor([0.0, 1.0]))
    tensor([0.7311, 0.2689])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the input."""
        result: Tensor = F.softmin(input, self.dim, _stacklevel=5)
        return result
