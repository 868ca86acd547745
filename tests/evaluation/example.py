"""A small evaluated set that several tests share: reports with every kind of fault, references, training reports."""

from xraygpt.evaluation.baselines import NORMAL_REPORT
from xraygpt.evaluation.metric import Corpus

REFERENCES = {
    "a": "The heart is enlarged. There is a small left pleural effusion. No pneumothorax.",
    "b": "The lungs are clear. The heart size is normal. No pleural effusion or pneumothorax.",
    "c": "Right lower lobe consolidation. No pleural effusion.",
    "d": "The heart size is normal. The lungs are clear.",
    "e": "Bibasilar atelectasis. There is a pacemaker on the left.",
    "f": "No acute cardiopulmonary abnormality. The lungs are clear.",
}
PREDICTIONS = {
    "a": "The heart is enlarged. There is a small right pleural effusion. No pneumothorax.",
    "b": "The lungs are clear. The heart size is normal. No pleural effusion or pneumothorax.",
    "c": "The lungs are clear. No pleural effusion.",
    "d": "The heart size is normal. There is a right pneumothorax.",
    "e": "Bibasilar atelectasis.",
    "f": "",
}
TRAINING = [NORMAL_REPORT, NORMAL_REPORT, "Cardiomegaly.", "The lungs are clear."]


def example(predictions: dict[str, str] = PREDICTIONS) -> Corpus:
    """The six studies with these reports."""
    ids = tuple(REFERENCES)
    return Corpus(ids, tuple(predictions[key] for key in ids), tuple((REFERENCES[key],) for key in ids), ids)
