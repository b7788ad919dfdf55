"""A test for pytest: the port in my_port.py computes what the reference does."""

from my_port import port  # yours: port(fixture, tap), see docs/port-guide.md

from musiq_ref.verify import make_fixture
from musiq_ref.verify.adapters import compare_port


def test_my_port_is_musiq(tmp_path):
    fixture = make_fixture(tmp_path / "reference", conventions="official")
    result = compare_port(fixture, port, require=["patches", "encoder/*", "score"])
    assert result.passed, str(result)
