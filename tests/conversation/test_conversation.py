"""Formats of a conversation: worked cases, and copies that are copies."""

import pytest

from xraygpt.conversation import CONV_VISION, Conversation, SeparatorStyle
from xraygpt.conversation.prompts import IMAGE_BLOCK, question_prompt, split_at_images

TEMPLATE = "###Patient: {} ###Doctor: "


def trained(*messages: tuple[str, str | None], template: str = TEMPLATE, end_sym: str = "###") -> Conversation:
    conv = Conversation.from_template(template, end_sym)
    for role, text in messages:
        conv.append_message(role, text)
    return conv


Q1 = ("Patient", f"{IMAGE_BLOCK} What?")
A1 = ("Doctor", "Nothing.")
Q2 = ("Patient", "Sure?")
OPEN = ("Doctor", None)


@pytest.mark.parametrize(
    ("messages", "template", "end_sym", "expected"),
    [
        ((Q1, OPEN), TEMPLATE, "###", ["###Patient: <Img>", "<ImageHere>", "</Img> What? ###Doctor: "]),
        (
            (Q1, A1, Q2, OPEN),
            TEMPLATE,
            "###",
            ["###Patient: <Img>", "<ImageHere>", "</Img> What? ###Doctor: ", "Nothing.###", "Patient: Sure? ###Doctor: "],
        ),
        ((Q1, A1, Q2, OPEN), "{}", "\n", ["<Img>", "<ImageHere>", "</Img> What?", "Nothing.\n", "Sure?"]),
        ((Q1, A1, Q2, OPEN), "{} A:", "", ["<Img>", "<ImageHere>", "</Img> What? A:", "Nothing.", "Sure? A:"]),
        ((Q1, Q2, OPEN), TEMPLATE, "###", ["###Patient: <Img>", "<ImageHere>", "</Img> What? Sure? ###Doctor: "]),
    ],
)
def test_parts_in_the_format_of_training(
    messages: tuple[tuple[str, str | None], ...], template: str, end_sym: str, expected: list[str]
) -> None:
    conv = trained(*messages, template=template, end_sym=end_sym)
    assert conv.get_parts() == expected
    assert conv.get_prompt() == "".join(expected)


def test_first_turn_is_the_training_prompt() -> None:
    assert trained(Q1, OPEN).get_parts() == split_at_images(question_prompt("What?", TEMPLATE))


@pytest.mark.parametrize(
    ("style", "sep2", "expected"),
    [
        (SeparatorStyle.SINGLE, None, "S###Patient: Hi###Doctor: Yes.###Patient: So?###Doctor:"),
        (SeparatorStyle.TWO, "</s>", "S###Patient: Hi###Doctor: Yes.</s>Patient: So?###Doctor:"),
    ],
)
def test_text_styles(style: SeparatorStyle, sep2: str | None, expected: str) -> None:
    messages = [["Patient", "Hi"], ["Doctor", "Yes."], ["Patient", "So?"], ["Doctor", None]]
    assert Conversation(system="S", messages=messages, sep_style=style, sep2=sep2).get_prompt() == expected


def test_text_styles_split_at_images() -> None:
    conv = CONV_VISION.copy()
    conv.append_message("Patient", IMAGE_BLOCK)
    before, image, after = conv.get_parts()
    assert before.endswith("Please answer my questions.###Patient: <Img>")
    assert (image, after) == ("<ImageHere>", "</Img>###")


def test_dropping_the_oldest_turn_keeps_its_image() -> None:
    conv = trained(Q1, A1, Q2, ("Doctor", "Yes."), ("Patient", f"{IMAGE_BLOCK} And this?"), OPEN)
    once = conv.without_oldest_turn()
    assert once is not None
    assert once.messages[0] == ["Patient", f"{IMAGE_BLOCK} Sure?"]
    twice = once.without_oldest_turn()
    assert twice is not None
    assert twice.messages == [["Patient", f"{IMAGE_BLOCK} {IMAGE_BLOCK} And this?"], ["Doctor", None]]
    assert twice.without_oldest_turn() is None
    assert conv.num_images() == once.num_images() == twice.num_images() == 2
    assert len(conv.messages) == 6


def test_copy_has_messages_of_its_own() -> None:
    copy = CONV_VISION.copy()
    copy.append_message("Patient", "Hi")
    second = copy.copy()
    second.messages[0][1] += " there"
    assert (CONV_VISION.messages, copy.messages) == ([], [["Patient", "Hi"]])
    assert (second.system, second.sep, second.offset) == (CONV_VISION.system, "###", 2)


def test_to_gradio_chatbot_pairs_from_the_offset_on() -> None:
    conv = trained(Q1, A1, Q2, OPEN)
    assert conv.to_gradio_chatbot() == [[Q1[1], "Nothing."], ["Sure?", None]]
    conv.offset = 2
    assert conv.to_gradio_chatbot() == [["Sure?", None]]


def test_dict_is_plain() -> None:
    exported = trained(Q1, A1).dict()
    assert exported["sep_style"] == "TRAINED"
    assert exported["messages"] == [list(Q1), list(A1)]
