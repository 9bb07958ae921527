"""Settings from the environment, as the chart writes them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from trimtab.api.problems import problems
from trimtab.settings import LogFormat, LogLevel, Settings


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({}, Settings()),
        ({"TRIMTAB_WATCH_NAMESPACES": ""}, Settings()),
        ({"TRIMTAB_WATCH_NAMESPACES": "a, b,"}, Settings(watch_namespaces=["a", "b"])),
        ({"TRIMTAB_HTTP_PORT": "9090", "TRIMTAB_WORKERS": "2"}, Settings(http_port=9090, workers=2)),
        (
            {"TRIMTAB_LOG_LEVEL": "Debug", "TRIMTAB_LOG_FORMAT": "JSON"},
            Settings(log_level=LogLevel.DEBUG, log_format=LogFormat.JSON),
        ),
        # What a Service called `trimtab` adds to the pods of its namespace.
        ({"TRIMTAB_PORT": "tcp://10.0.0.1:8080", "TRIMTAB_SERVICE_HOST": "10.0.0.1"}, Settings()),
    ],
    ids=["defaults", "empty", "namespaces", "numbers", "choices", "service links"],
)
def test_what_the_environment_says(environment: dict[str, str], settings: Settings) -> None:
    assert Settings.from_environment(environment) == settings


def test_settings_come_back_from_the_environment_they_make() -> None:
    settings = Settings(watch_namespaces=["a", "b"], alerts_token_file="/t", workers=3, log_format=LogFormat.JSON)
    assert Settings.from_environment(settings.environment()) == settings


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TRIMTAB_HTTP_PORT", "http", "httpPort: 'http' is refused: "),
        ("TRIMTAB_WORKERS", "0", "workers: '0' is refused: "),
        ("TRIMTAB_LOG_LEVEL", "loud", "logLevel: 'loud' is none of "),
        ("TRIMTAB_WATCH_NAMESPACES", "a,B_", "watchNamespaces[1]: 'B_' "),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings.from_environment({name: value})
    assert problems(refused.value, Settings)[0].startswith(says)
