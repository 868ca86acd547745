"""Scores that need a trained model, from local weights; and files for the tools that compute the others."""

from xraygpt.evaluation.model_scores.export import export_for_other_tools
from xraygpt.evaluation.model_scores.scores import MODEL_SCORES, compute_model_scores

__all__ = ["MODEL_SCORES", "compute_model_scores", "export_for_other_tools"]
