"""Stages of chains that run in this process are forked from the warm one."""

import subprocess

import pytest
import warm


@pytest.fixture(autouse=True)
def warm_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", warm.Popen)
