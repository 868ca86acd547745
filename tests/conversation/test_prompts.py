"""Prompt files, and user text that tries to pose as markup."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xraygpt.common.errors import ConfigError
from xraygpt.conversation.prompts import load_prompts, neutralise, question_prompt, split_at_images

TEMPLATE = "###Patient: {} ###Doctor: "
PIECES = [
    "#",
    "##",
    "###",
    "<",
    ">",
    "/",
    "Image",
    "Here",
    "<ImageHere>",
    "<Img>",
    "</Img>",
    "Doctor",
    "Patient",
    ":",
    " ",
    "\n",
    "s",
    "</s>",
    "x",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text())
def test_neutralised_text_holds_no_markup(text: str) -> None:
    harmless = neutralise(text)
    assert not re.search(r"##|</?(ImageHere|Img|s|unk|pad)>", harmless, flags=re.IGNORECASE)
    assert not re.search(r"\b(Patient|Doctor)\s*:", harmless)
    assert neutralise(harmless) == harmless
    assert split_at_images(question_prompt(harmless, TEMPLATE)).count("<ImageHere>") == 1


@pytest.mark.parametrize("text", ["Is the heart enlarged?", "size < 3 cm & > 2 cm", "C# 5: patient's doctor", "naïve ≥ 1"])
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert neutralise(text) == text


def test_prompts_of_the_project_load(repo_root: Path) -> None:
    prompts = load_prompts(repo_root / "prompts" / "alignment.txt", TEMPLATE)
    assert all(prompt.startswith("###Patient: <Img><ImageHere></Img> ") and prompt.endswith(" ###Doctor: ") for prompt in prompts)


@pytest.mark.parametrize(
    ("text", "template", "message"),
    [
        ("", TEMPLATE, "no prompts"),
        ("<ImageHere> a\nb\n", TEMPLATE, "line 2: expected exactly one <ImageHere>, got 0"),
        ("<ImageHere><ImageHere>\n", TEMPLATE, "line 1: .* got 2"),
        ("<ImageHere>\n", "no place", "exactly one {}"),
    ],
)
def test_faulty_prompt_files_are_refused(tmp_path: Path, text: str, template: str, message: str) -> None:
    (tmp_path / "prompts.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_prompts(tmp_path / "prompts.txt", template)


def test_white_space_costs_no_time() -> None:
    """With a search that looks at each run of it again and again, this would take minutes."""
    assert neutralise("<" + " " * 100_000 + "x") == "< x"
    assert neutralise("<" + " " * 100_000 + "/s>") == ""
