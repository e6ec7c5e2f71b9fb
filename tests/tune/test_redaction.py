"""Laws of what is shown and stored: no secret is in it, and what is no secret stays."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.redaction import without_password

SECRET = st.text(
    string.ascii_letters + string.digits + "-._~!$&'()*+,=:@/%", min_size=1, max_size=30
).map(lambda text: f"S3cr3t{text}t3rc3S")
HOST = st.sampled_from(["host", "ml.example.org", "127.0.0.1:5000", "[::1]:5432"])
TAIL = st.sampled_from(["", "/", "/db", "/a/b?x=1", "?x=1&y=2"])
AROUND = st.sampled_from(
    [("", ""), ("no answer from ", ": timed out"), ("--tracking-uri=", ""), ("'", "'"), ('"', '",')]
)


def without_secret(secret: str, text: str) -> None:
    shown = without_password(text)
    assert secret not in shown
    assert "S3cr3t" not in shown
    assert "t3rc3S" not in shown
    assert without_password(shown) == shown


@given(st.sampled_from(["http", "https", "s3", "ray", "HTTPS"]), SECRET, HOST, TAIL, AROUND)
def test_a_token_in_the_place_of_a_user_is_no_more_shown_than_a_password(
    scheme: str, secret: str, host: str, tail: str, around: tuple[str, str]
) -> None:
    for user_info in (
        secret,
        f"{secret}:",
        f"{secret}:x-oauth-basic",
        f"user:{secret}",
        f":{secret}",
    ):
        without_secret(secret, f"{around[0]}{scheme}://{user_info}@{host}{tail}{around[1]}")


@given(
    st.sampled_from(["postgresql", "postgresql+psycopg2", "mysql", "mssql+pyodbc"]),
    SECRET,
    HOST,
    TAIL,
    AROUND,
)
def test_the_password_of_a_database_is_not_shown_and_its_user_is(
    scheme: str, secret: str, host: str, tail: str, around: tuple[str, str]
) -> None:
    text = f"{around[0]}{scheme}://somebody:{secret}@{host}{tail}{around[1]}"
    without_secret(secret, text)
    assert "somebody" in without_password(text)


@given(
    st.sampled_from(
        [
            "password",
            "sslpassword",
            "PWD",
            "token",
            "access_token",
            "client_secret",
            "api_key",
            "sig",
        ]
    ),
    st.text(string.ascii_letters + string.digits + "-._~%:/@", min_size=1).map(
        lambda text: f"S3cr3t{text}t3rc3S"
    ),
    st.sampled_from(["?", "?x=1&", " "]),
    st.sampled_from(["", "&y=2", ";y=2", " and more"]),
)
def test_a_secret_among_the_settings_of_a_url_is_not_shown(
    name: str, secret: str, before: str, after: str
) -> None:
    without_secret(secret, f"mysql://host/db{before}{name}={secret}{after}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:secret@host/db", "postgresql://u:***@host/db"),
        ("--storage=postgresql://u:se/c#r@et@host/db", "--storage=postgresql://u:***@host/db"),
        ("mysql://host/db?password=secret&x=1", "mysql://host/db?password=***&x=1"),
        ("https://TOKEN@host/x", "https://***@host/x"),
        ("http://user:secret@server", "http://***@server"),
        ("https://x.blob/y?sv=1&sig=abc%3D&se=1", "https://x.blob/y?sv=1&sig=***&se=1"),
    ],
)
def test_secrets_are_taken_out_of_what_is_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///results/study.db",
        "sqlite:////home/me@work/study.db",
        "file:///home/me@work/mlartifacts",
        "http://127.0.0.1:5000",
        "postgresql://somebody@host/db",
        "models:/demo@best",
        "diverged: epoch 1, batch 3: loss is nan",
        "--set optim.epochs=3",
    ],
)
def test_what_holds_no_secret_is_shown_as_it_is(text: str) -> None:
    assert without_password(text) == text
