"""A Python that is too old gets one clear sentence and exit code 2."""

from __future__ import annotations

import importlib
import sys

import pytest

import schemas.python


def test_an_old_python_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    monkeypatch.setattr(sys, "version", "3.10.4 (main)")
    with pytest.raises(SystemExit) as caught:
        importlib.reload(schemas.python)
    assert caught.value.code == 2
    assert "needs Python 3.11 or newer; this is 3.10.4" in capsys.readouterr().err
