"""Everything a trainer minimises: the weighted reconstruction losses and the adversarial pair."""

from hyperinverter.losses.total import LOSSES, FeatureLoss, L2Loss, Loss, TotalLoss, build_losses

__all__ = ["LOSSES", "FeatureLoss", "L2Loss", "Loss", "TotalLoss", "build_losses"]
