"""Keys and passwords are in nothing that is raised or logged, whoever quotes them."""

import pickle
from typing import TypeVar

import pytest

from visual_r1.errors import BackendError, ServerBusy, VisualR1Error
from visual_r1.printing import PrintableFormatter, open_logger
from visual_r1.secrecy import HIDDEN, hide_secrets, keep_secret, keep_secrets_of

E = TypeVar("E", bound=Exception)


def sent(error: E) -> E:
    """As another process has it."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301


@pytest.mark.parametrize(
    "name",
    ["TINKER_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"],
)
def test_a_key_of_the_environment_is_in_no_error(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    key = f"hunter-of-{name}"
    monkeypatch.setenv(name, f"{key}\n")
    said = str(UnicodeError(f"Illegal header value b'Bearer {key}\\n'"))
    error = VisualR1Error(f"It failed: {said}.")
    # As soon as it is made: by then the key may be out of the environment again.
    monkeypatch.delenv(name)
    for shown in (str(error), repr(error), str(sent(error))):
        assert "hunter" not in shown
        assert HIDDEN in shown
    assert "hunter" not in str(BackendError(f"And again: {key}."))


def test_a_password_in_an_address_is_in_no_error() -> None:
    keep_secrets_of("https://me:hunter-two@there/?token=hunter-three")
    said = (
        "Client error for url 'postgresql+asyncpg://prefect:hunter2@db/prefect', "
        "https://hunter3@there:80/x and hunter-two, token=hunter-three at tinker://a/weights/b@2"
    )
    shown = hide_secrets(said)
    assert "hunter" not in shown
    assert f"'postgresql+asyncpg://{HIDDEN}@db/prefect'" in shown
    assert f"https://{HIDDEN}@there:80/x" in shown
    assert shown.endswith("tinker://a/weights/b@2")


def test_a_log_has_none_not_even_in_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    keep_secret("hunter-of-a-log")
    logger = open_logger("visual_r1.test_secrecy")
    try:
        raise ValueError("b'hunter-of-a-log'")
    except ValueError as error:
        logger.warning("It says %s.", error, exc_info=True)
    assert caplog.messages == [f"It says b'{HIDDEN}'."]
    assert "hunter" not in PrintableFormatter().format(caplog.records[0])


def test_a_short_word_is_none_for_sentences_need_it() -> None:
    keep_secret("model")
    assert hide_secrets("The model is there.") == "The model is there."


def test_an_error_that_is_sent_to_another_process_keeps_how_long_to_wait() -> None:
    error = sent(ServerBusy("It is busy.", 5.0))
    assert (str(error), error.retry_after_s) == ("It is busy.", 5.0)
