"""Who sees the pages: this machine's browser, with the token; and what a page may do there."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from visual_r1.pages.app import pages
from visual_r1.pages.guard import kept_token

TOKEN = "a-token"
AT = "http://127.0.0.1:4280"


@pytest.fixture
def stranger(tmp_path: Path) -> TestClient:
    (tmp_path / "runs" / "a?b#c").mkdir(parents=True)
    (tmp_path / "runs" / "a?b#c" / "config.json").write_text("{}")
    app = pages(tmp_path, TOKEN)

    @app.post("/changes")
    def changes() -> str:
        return "changed"

    return TestClient(app, base_url=AT, follow_redirects=False)


@pytest.fixture
def known(stranger: TestClient) -> TestClient:
    assert stranger.get(f"/?token={TOKEN}").status_code == 303
    return stranger


def test_without_the_token_nothing_is_shown(stranger: TestClient):
    for path in ("/", "/runs/a%3Fb%23c", "/?token=another", "/share?of=/", "/no-such"):
        answer = stranger.get(path)
        assert answer.status_code == 401, path
        assert "a?b" not in answer.text and TOKEN not in answer.text
    assert stranger.get("/static/pages.css").status_code == 200


def test_the_token_becomes_a_cookie_and_the_address_a_clean_one(stranger: TestClient):
    answer = stranger.get(f"/runs/a%3Fb%23c?step=3&token={TOKEN}")
    assert answer.headers["location"] == "/runs/a%3Fb%23c?step=3"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and TOKEN not in cookie
    assert stranger.get("/runs/a%3Fb%23c").status_code == 200
    # Of another port, which browsers send it to as well, it is none.
    assert stranger.get("http://127.0.0.1:4281/").status_code == 401


def test_no_redirect_leads_away(stranger: TestClient):
    assert stranger.get(f"{AT}//evil.example/?token={TOKEN}").headers["location"].startswith("/e")


def test_an_address_for_a_colleague_has_the_token(known: TestClient):
    shared = known.get("/share", params={"of": "/runs/a%3Fb%23c?step=3#rows"}).text
    assert shared == f"{AT}/runs/a%3Fb%23c?step=3&token={TOKEN}#rows"
    known.cookies.clear()
    assert known.get(shared).status_code == 303


def test_a_link_from_another_site_opens_once_more_from_here(stranger: TestClient):
    """A browser leaves a strict cookie out there, and sends it when our own page reloads."""
    from_a_chat = stranger.get("/", headers={"Sec-Fetch-Site": "cross-site"})
    assert 'http-equiv="refresh"' in from_a_chat.text
    again = stranger.get("/", headers={"Sec-Fetch-Site": "same-origin"})
    assert "refresh" not in again.text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "0.0.0.0"])
def test_a_site_that_calls_itself_this_machine_is_refused(known: TestClient, host: str):
    assert known.get("/", headers={"Host": host}).status_code == 400


def test_only_our_own_pages_may_change_something(known: TestClient):
    assert known.post("/changes", headers={"Origin": AT}).text == '"changed"'
    for origin in ({}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9999"}):
        assert known.post("/changes", headers=origin).status_code == 403
    known.cookies.clear()
    assert known.post("/changes", headers={"Origin": AT}).status_code == 401


def test_every_answer_forbids_what_no_page_needs(known: TestClient):
    for path in ("/", "/static/keys.js", "/no-such", "/runs/no-such"):
        headers = known.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_the_token_is_kept_and_its_owner_s_alone(tmp_path: Path):
    token = kept_token(tmp_path / "pages")
    assert kept_token(tmp_path / "pages") == token
    assert (tmp_path / "pages" / "token").stat().st_mode & 0o077 == 0
