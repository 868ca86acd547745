"""Names, passwords and tokens: where they come from, and how they are checked."""

from pathlib import Path

import pytest

from xraygpt.common.errors import DataError
from xraygpt.serving.logins import PAGE_USER, password_login, read_passwords, read_tokens, token_login

TOKENS = ["a-token-of-a-good-length", "another-token-of-a-good-length"]


def test_a_password_may_have_colons_and_a_file_several_users(tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("anna:a:long:password\n\n bela:another password \n")
    assert read_passwords(tmp_path / "auth") == {"anna": "a:long:password", "bela": "another password"}


def test_the_environment_has_a_password_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAYGPT_AUTH", "anna:a-long-secret")
    assert read_passwords(None) == {"anna": "a-long-secret"}
    assert read_passwords(None) == {}  # no other program is told


@pytest.mark.parametrize("text", ["anna", ":secret", "anna:", "\n", "ok:fine and long\nsecret"])
def test_what_is_no_password_is_refused_without_a_word_of_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "auth").write_text(text)
    with pytest.raises(DataError, match="USER:PASSWORD") as caught:
        read_passwords(tmp_path / "auth")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644])
def test_a_file_that_others_can_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int) -> None:
    path = tmp_path / "tokens"
    path.write_text("\n".join(TOKENS))
    path.chmod(mode)
    assert read_tokens(path) == TOKENS
    assert f"chmod 600 {path}" in caplog.text
    assert TOKENS[0] not in caplog.text
    caplog.clear()
    path.chmod(0o600)
    read_tokens(path)
    assert caplog.text == ""


def test_short_passwords_and_tokens_are_refused(tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("anna:a-long-secret\nbela:secret")
    with pytest.raises(DataError, match="line 2 has fewer than 12 characters") as caught:
        read_passwords(tmp_path / "auth")
    assert "secret" not in str(caught.value).replace("secrets", "")
    (tmp_path / "tokens").write_text("short")
    with pytest.raises(DataError, match="at least 16 characters"):
        read_tokens(tmp_path / "tokens")


def test_checks() -> None:
    by_password, by_token = password_login({"anna": "secret", "bela": "ünsicher"}), token_login(TOKENS)
    assert [by_password("anna", "secret"), by_password("bela", "ünsicher")] == ["anna", "bela"]
    assert [by_password("anna", "ünsicher"), by_password("carl", ""), by_password("", "")] == [None] * 3
    assert [by_token(PAGE_USER, token) for token in TOKENS] == ["token 1", "token 2"]
    assert [by_token("anna", TOKENS[0]), by_token(PAGE_USER, ""), by_token(PAGE_USER, "guess")] == [None] * 3
