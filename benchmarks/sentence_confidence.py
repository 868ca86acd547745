"""What a low confidence says: python benchmarks/sentence_confidence.py [--cfg-path FILE] [--folder data/phantom/openi] [--max-images N]

A report is written for each image of the splits val and test, and each sentence that states a finding is compared with the reference. The
baseline, measured in the same run, is the share of wrong sentences among those of higher confidence. Needs a trained model: make
quickstart.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from xraygpt import load_model
from xraygpt.datasets.builders import load_annotations
from xraygpt.evaluation.faithfulness import judge_report
from xraygpt.serving.safety import LOW_CONFIDENCE

Judged = tuple[float, bool]
"""Confidence of a sentence, and whether the reference contradicts it."""


def judged_sentences(cfg_path: str, folder: Path, max_images: int) -> list[Judged]:
    """The sentences of the reports that the model writes, those without a finding left out."""
    model = load_model(cfg_path)
    held_out = [ann for ann in load_annotations(folder / "filter_cap.json") if ann["split"] in ("val", "test")][:max_images]
    sentences: list[Judged] = []
    for ann in held_out:
        (image,) = (folder / "image").glob(f"{ann['image_id']}.*")
        chat = model.chat(image)
        chat.ask()
        answer = chat.session.turns[-1].answer
        judged = [each for each in judge_report(answer.text, [ann["caption"]]).sentences if each.text.strip()]
        sentences += [
            (sentence.confidence, verdict.verdict == "contradicted")
            for sentence, verdict in zip(answer.sentences, judged, strict=True)
            if verdict.verdict != "neutral"
        ]
    print(f"{len(held_out)} reports, {len(sentences)} sentences, {sum(wrong for _, wrong in sentences)} of them contradicted.")
    return sentences


def share(sentences: Sequence[Judged]) -> float:
    """The share of contradicted sentences; NaN without any."""
    return sum(wrong for _, wrong in sentences) / len(sentences) if sentences else float("nan")


def main() -> None:
    """Measure, and print one line for each threshold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cfg-path", default="eval_configs/quickstart.yaml")
    parser.add_argument("--folder", type=Path, default=Path("data/phantom/openi"))
    parser.add_argument("--max-images", type=int, default=400)
    args = parser.parse_args()
    sentences = judged_sentences(args.cfg_path, args.folder, args.max_images)
    print("threshold  marked  contradicted: marked  others  ratio   of all contradicted, marked")
    for threshold in sorted({0.5, 0.6, 0.7, 0.8, 0.85, LOW_CONFIDENCE}):
        low, high = ([each for each in sentences if (each[0] < threshold) == wanted] for wanted in (True, False))
        caught = sum(wrong for _, wrong in low) / max(1, sum(wrong for _, wrong in sentences))
        marked = len(low) / len(sentences)
        ratio = share(low) / share(high)
        print(f"{threshold:9.2f} {marked:7.1%} {share(low):21.1%} {share(high):7.1%} {ratio:6.1f} {caught:29.1%}")


if __name__ == "__main__":
    main()
